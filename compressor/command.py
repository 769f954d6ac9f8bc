"""How the command line is laid out: a main job that needs no name of its own beside named sub-commands."""

from __future__ import annotations

import click

JOB = "MODEL"  # stands for the main job among the sub-commands; shown as `compress MODEL`


class JobContext(click.Context):
    """The main job is called without a name of its own, and its help is the help of the whole command."""

    @property
    def command_path(self) -> str:
        """``compress``, without the stand-in name."""
        assert self.parent is not None
        return self.parent.command_path

    def get_help(self) -> str:
        """The whole command's help."""
        assert self.parent is not None
        return self.parent.get_help()


class Job(click.Command):
    """The main job."""

    context_class = JobContext


class Main(click.Group):
    """A group whose main job needs no name: what is no sub-command is the job's MODEL or its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the main job unless a sub-command or one of the group's own options comes first."""
        if not args:
            args = ["--help"]
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if args and args[0] not in own and args[0] not in self.list_commands(ctx):
            args = [JOB, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The sub-commands in the order they were written, without the main job."""
        return [name for name in self.commands if name != JOB]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The main job's usage, then the sub-commands'."""
        formatter.write_usage(ctx.command_path, "MODEL [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] …", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The main job's options, then the group's, then the sub-commands."""
        rows = [
            (
                "MODEL",
                "A file (.onnx, .pt2, a state dict with --arch), a Hugging Face folder, or code, module:callable.",
            )
        ]
        for parameter in (*self.commands[JOB].params, *self.get_params(ctx)):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                rows.append(record)
        with formatter.section("Options"):
            formatter.write_dl(rows)
        self.format_commands(ctx, formatter)
