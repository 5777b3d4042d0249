"""Help as wide as the terminal is: Typer keeps a docstring's own ends of lines."""

import inspect

import click
from typer.core import TyperGroup


def flowing(text: str) -> str:
    """Paragraphs, each one line."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part.replace("\n", " ") for part in paragraphs)


def teaching(command: click.Command) -> click.Command:
    """Have a command's help flow, and that of its verbs."""
    command.help = flowing(command.help or "")
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            teaching(verb)
    return command


class Teaching(TyperGroup):
    """A group whose commands' help flows."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find one."""
        command = super().get_command(ctx, cmd_name)
        return None if command is None else teaching(command)
