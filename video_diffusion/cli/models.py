"""`video-diffusion models`: published models that fit together, and fetching them."""

import json
from dataclasses import asdict

import click

from video_diffusion.cli.terminal import printable, say


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List published image models with temporal layers, and which of them are in the local cache.

    No network is used for the list. Each name has a file of settings, configs/generate/NAME.yaml.
    """
    if context.invoked_subcommand is not None:
        return
    from video_diffusion.loading.model_catalogue import CATALOGUE, total_state

    rows = {name: {**asdict(entry), "cached": total_state(entry)} for name, entry in CATALOGUE.items()}
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max(map(len, rows))
    for name, row in rows.items():
        sizes = f"download {row['download_gb']} GB, weights {row['weights_gb']} GB in float16"
        click.echo(f"{name:<{width}}  {row['title']}; {sizes}; cached: {row['cached']}")
        click.echo(f"{'':<{width}}  --model {row['model']} --motion-adapter {row['motion_adapter']}")
        if row["note"]:
            click.echo(f"{'':<{width}}  {row['note']}")


@models.command()
@click.argument("name", metavar="NAME")
def download(name: str) -> None:
    """Fetch a model of the list from the Hugging Face hub into its cache; what is there is not fetched again.

    The paths go to stdout.
    """
    from video_diffusion.loading import model_catalogue

    entry = model_catalogue.catalogue_entry(name)
    if model_catalogue.total_state(entry) != "yes":
        say(f"fetching about {entry.download_gb} GB from the hub")
    for path in model_catalogue.download(entry):
        click.echo(printable(str(path)))
