"""What the errors of this package tell their caller besides their one line."""


class FieldError(ValueError):
    """A field whose value cannot be, or does not go with another one.

    Args:
        field: Its name, for whoever knows the flag that set it.
        message: One line: the rule, the value given, the way out.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    @property
    def flag(self) -> str:
        """The field's name as a flag."""
        return f"--{self.field.replace('_', '-')}"

    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        """So that it passes from process to process."""
        return type(self), (self.field, str(self))
