"""The stage's public function, `provision`: steps in, the guest as they say and a `Report` out.

One channel reads everything, the host decides, and one more channel carries out what differs; no difference, no
second channel. A step that this computer carries out (`reboot`, `ansible`, `python`) parts the run in two.
"""

from typing import TYPE_CHECKING

from devbox.config.model import StepSpec
from devbox.provision import plan
from devbox.provision.bind import bind
from devbox.provision.context import Context
from devbox.provision.plan import Options, Status
from devbox.provision.report import Outcome, Report
from devbox.provision.rounds import Rounds
from devbox.provision.secrets import revealed

if TYPE_CHECKING:
    from devbox.guest.connection import Guest

__all__ = ["Context", "Options", "Outcome", "Report", "Status", "provision"]


def provision(guest: "Guest", steps: tuple[StepSpec, ...], context: Context, options: Options) -> Report:
    """Brings the guest into the state that the steps ask for, or with `options.check` says what that would do.

    Raises `provision.failed` after a step that failed; before anything is done `step.invalid`, `provision.no-step`,
    `secret.…`; and for the run as a whole `provision.probe`, `provision.no-root`, `provision.run`, `provision.busy`,
    `provision.here`, `provision.connection-lost` and `provision.killed`.
    """
    bound = bind(steps, context.project_root, context.run_user)
    chosen = {index: bound[index] for index in plan.select(bound, options)} if bound else {}
    asked = [step.name for step in chosen.values() if plan.is_asked_for(step, options)]
    chosen = revealed(chosen, context.machine, key=context.secret_key, asked=asked)
    rounds = Rounds(guest, chosen, {step.name: step.key for step in bound}, context, options)
    try:
        return rounds.all()
    finally:
        rounds.close()
