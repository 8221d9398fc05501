"""Why a model could not be opened, as errors that say what to do."""


class ModelLoadError(ValueError):
    """A model folder, its configuration or its weights cannot be used; the message is one line."""


class DeviceError(RuntimeError):
    """This machine has no such device; the message lists what it has."""
