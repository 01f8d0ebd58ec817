"""Run the project without the ``kedro`` command: ``clickprompt --env=... --params=...``.

``accelerate launch -m clickprompt run --pipeline=pretrain`` and torchrun start it so, too.
"""

import sys

from kedro.framework.project import configure_project


def main() -> None:
    """Run a pipeline, with the options of ``kedro run``."""
    configure_project("clickprompt")
    from clickprompt.cli import run

    arguments = sys.argv[1:]
    run(arguments[1:] if arguments[:1] == ["run"] else arguments, prog_name="clickprompt")


if __name__ == "__main__":
    main()
