"""Run the project without the ``kedro`` command: ``clickprompt --env=... --params=...``."""

from kedro.framework.project import configure_project


def main() -> None:
    """Run a pipeline, with the options of ``kedro run``."""
    configure_project("clickprompt")
    from clickprompt.cli import run

    run(prog_name="clickprompt")


if __name__ == "__main__":
    main()
