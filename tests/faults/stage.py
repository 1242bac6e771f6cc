"""One seed of the campaign, on real processes: starts everybody, strikes, starts the dead again, sees to the recovery.

A fault counts only if it bit: the process that it hit is gone and another one serves in its place, or the sink that got
an order has carried it out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.host import WORKER
from faults.layout import FEDERATION, LONE, SERVER, TRAINERS, Layout
from faults.ordered_sink import awaits_orders, give_order
from faults.processes import CAMPAIGN, Actor, Process, scan
from faults.schedule import Fault

PUBLISHER_OF = {FEDERATION: SERVER.name, LONE.site: LONE.name}
"""Who publishes in the processes that run buses."""

TICK = 0.1
"""Seconds between two looks at the processes."""

DOWN_SECONDS = (0.0, 1.5)
"""How long an actor that was killed stays down."""

PATIENCE = 10.0
"""How long a fault waits for its target: a tracker's SDK may just be starting."""

GONE_SECONDS = 10.0
"""What ending may take beyond the orphan's time-out: a worker's SDK may have started processes of its own."""

RECOVERY_SECONDS = 240.0
"""What a recovery may take: a drain's bound, and the start of everybody."""

OPENINGS = 3
"""How often the workspaces are opened to deliver what was left."""


@dataclass
class Strike:
    """A fault that was carried out.

    Attributes:
        fault: Which.
        at: When, by the steady clock.
        victim: The process that it hit.
        proof: The file that appears when a sink obeys, or when somebody publishes in the victim's place.
        bit: When it was seen to have bitten.
    """

    fault: Fault
    at: float
    victim: Process | None = None
    proof: Path | None = None
    bit: float | None = None

    def told(self) -> str:
        """Tell it in one line."""
        hit = f" (pid {self.victim.pid})" if self.victim else ""
        end = "did not bite" if self.bit is None else f"bit within {self.bit - self.at:.1f} s"
        return f"{self.fault.at:7.1f} s  {self.fault.kind}: {self.fault.target}{hit} {end}"

    def look(self, living: list[Process], now: float) -> None:
        """See whether the victim is gone and another one of its kind has come."""
        if self.bit is None and (self.proof.exists() if self.proof else self._is_replaced(living)):
            self.bit = now

    def _is_replaced(self, living: list[Process]) -> bool:
        victim = self.victim
        is_gone = victim is not None and victim.id not in {one.id for one in living}
        return victim is not None and is_gone and any(_same_job(victim, one) for one in living)


def _same_job(one: Process, other: Process) -> bool:
    return one.consumer == other.consumer and one.is_core == other.is_core and one.is_worker == other.is_worker


@dataclass
class Outcome:
    """What the referee saw.

    Attributes:
        strikes: Faults that were carried out.
        missed: Faults whose target was not there.
        left: Processes that were there when they should have been gone.
        broken: Actors that ended by themselves, workspaces that were not emptied, events that were given up.
    """

    strikes: list[Strike] = field(default_factory=list)
    missed: int = 0
    left: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Stage:
    """Runs one seed.

    Args:
        seed: Of the campaign's own choices: which of several processes, how long somebody stays down.
        layout: Where everything is.
        rate: Events per second and publisher.
    """

    def __init__(self, seed: int, layout: Layout, rate: float) -> None:
        self.layout = layout
        self.outcome = Outcome()
        self._chance = random.Random(f"stage-{seed}")
        self._rate = rate
        self._campaign = str(layout.folder)
        self._actors = {name: self._host(name) for name in (FEDERATION, LONE.site)}
        self._actors |= {trainer.name: self._trainer(trainer.index) for trainer in TRAINERS}
        self._back_at: dict[str, float] = {}

    def _host(self, name: str) -> Actor:
        arguments = [name, str(self.layout.folder), ",".join(self.layout.trackers)]
        environment = {CAMPAIGN: self._campaign}
        return Actor(name, ["faults.host", *arguments], environment, self.layout.folder / "logs")

    def _trainer(self, index: int) -> Actor:
        publisher = next(one for one in TRAINERS if one.index == index)
        arguments = [publisher.site, publisher.run, str(index), str(self._rate), str(self.layout.ledgers)]
        environment = {CAMPAIGN: self._campaign, "TRACKBUS_BUS": self.layout.address(publisher)}
        return Actor(publisher.name, ["faults.publisher", *arguments], environment, self.layout.folder / "logs")

    def _start(self, name: str) -> None:
        self._actors[name].start(*([str(self._rate)] if name in (FEDERATION, LONE.site) else []))

    # --- the play -----------------------------------------------------------------------------------------------

    def play(self, schedule: list[Fault], is_enough: Callable[[], bool], on_strike: Callable[[], None]) -> None:
        """Carry the schedule out, and go on until enough was published."""
        for name in self._actors:
            self._start(name)
        self._wait(self._all_serve, RECOVERY_SECONDS)
        began = time.monotonic()
        waiting = schedule
        while waiting or not is_enough():
            elapsed = time.monotonic() - began
            waiting = [fault for fault in waiting if not self._is_done_with(fault, elapsed, on_strike)]
            self._look()
            time.sleep(TICK)

    def _is_done_with(self, fault: Fault, elapsed: float, on_strike: Callable[[], None]) -> bool:
        """Strike if the time has come; a target that is not there is waited for, and given up in the end."""
        if fault.at > elapsed:
            return False
        strike = self._carry_out(fault, time.monotonic())
        if strike is not None:
            self.outcome.strikes.append(strike)
        elif elapsed - fault.at < PATIENCE:
            return False
        else:
            self.outcome.missed += 1
        on_strike()
        return True

    def _all_serve(self) -> bool:
        """Tell whether every consumer has a worker, and everybody publishes."""
        at_work = {process.consumer for process in scan(self._campaign) if process.is_worker}
        publishing = len(list(self.layout.ledgers.iterdir())) >= len(self._actors)
        return publishing and at_work >= set(self.layout.consumers.values())

    def _look(self) -> None:
        """See which faults have bitten, and start the dead again when their time has come."""
        self._observe()
        now = time.monotonic()
        for name, actor in self._actors.items():
            if actor.is_running:
                continue
            if name not in self._back_at:
                self.outcome.broken.append(f"{name} ended by itself, see logs/{name}.log")
                self._back_at[name] = now
            if self._back_at[name] <= now:
                del self._back_at[name]
                self._start(name)

    def _carry_out(self, fault: Fault, now: float) -> Strike | None:
        if fault.kind == "sink":
            if awaits_orders(self.layout.workspace("server")):
                return None  # several in a row would strike one and the same event, and it would rightly be blamed
            number = len(self.outcome.strikes)
            return Strike(fault, now, proof=give_order(self.layout.workspace("server"), number, fault.target))
        if fault.kind == "everything":
            return self._kill_all_but_workers(fault, now)
        if fault.kind in ("kill trainer", "kill host"):
            return self._kill_actor(fault, now)
        victim = self._victim(fault)
        if victim is None:
            return None
        number = signal.SIGSTOP if fault.kind == "stop" else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, number)
        return Strike(fault, now, victim)

    def _victim(self, fault: Fault) -> Process | None:
        marker = self.layout.consumers[fault.target]
        ours = [one for one in scan(self._campaign) if one.consumer == marker]
        candidates = [one for one in ours if (one.is_core if fault.kind == "core" else one.is_worker)]
        if fault.kind == "stop":  # an orphan that is stopped is found by the next one that starts, whenever that is
            parents = {actor.pid for actor in self._actors.values() if actor.is_running}
            candidates = [one for one in candidates if one.parent in parents]
        stopped = self._stopped()  # their end is counted already
        candidates = [one for one in candidates if one.id not in stopped]
        return self._chance.choice(candidates) if candidates else None

    def _kill_actor(self, fault: Fault, now: float) -> Strike | None:
        """Kill it; the next life's ledger is the proof that another process publishes in its place."""
        name = PUBLISHER_OF.get(fault.target, fault.target)
        lives = len(list(self.layout.ledgers.glob(f"{name}.*")))
        if not self._actors[fault.target].kill():
            return None
        self._back_at[fault.target] = now + self._chance.uniform(*DOWN_SECONDS)
        return Strike(fault, now, proof=self.layout.ledgers / f"{name}.{lives:02}")

    def _kill_all_but_workers(self, fault: Fault, now: float) -> Strike | None:
        """Leave the workers as orphans, who must be gone in time; only then does anybody come back."""
        killed = [name for name, actor in self._actors.items() if actor.kill()]
        self._back_at.update(dict.fromkeys(killed, now))
        orphans = scan(self._campaign)
        self._wait_until_alone("after everything was killed", self._stopped())
        return Strike(fault, now, bit=time.monotonic()) if killed and orphans else None

    def _stopped(self) -> set[tuple[int, int]]:
        """Return those that can't end before somebody opens their workspace again: then they are let run on."""
        strikes = (one for one in self.outcome.strikes if one.fault.kind == "stop" and one.bit is None)
        return {strike.victim.id for strike in strikes if strike.victim is not None}

    def _wait_until_alone(self, when: str, excused: Collection[tuple[int, int]] = ()) -> None:
        def others() -> list[Process]:
            return [process for process in scan(self._campaign) if process.id not in excused]

        self._wait(lambda: not others(), WORKER.orphan_timeout + GONE_SECONDS)
        for process in others():
            self.outcome.left.append(f"{process} was there {when}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    # --- the end ------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Let everybody come back, then end in order, and open the workspaces until nothing is left in them."""
        self._wait(self._all_are_back, 2 * DOWN_SECONDS[1])
        for trainer in TRAINERS:
            self._finish(trainer.name)
        for host in (FEDERATION, LONE.site):
            self._empty(host)
        self._wait_until_alone("at the end")

    def _empty(self, host: str) -> None:
        report = self.layout.folder / "reports" / f"{host}.json"
        lines: list[dict[str, Any]] = []
        for opening in range(OPENINGS):
            if opening:
                self._actors[host].start("0")
            self._finish(host)
            lines = json.loads(report.read_text()) if report.exists() else []
            if lines and not any(line["left"] for line in lines):
                break
        else:
            self.outcome.broken.append(f"{host} was not emptied in {OPENINGS} openings")
        dropped = [line for line in lines if line["dropped"] and line["name"] != "ordered"]  # that one has dead letters
        self.outcome.broken += [f"{host}: {line}" for line in (*dropped, *(one for one in lines if one["refused"]))]

    def _finish(self, name: str) -> None:
        """Let an actor end by itself, and keep looking: orders are still being obeyed."""
        self._actors[name].end_input()
        self._wait(lambda: self._has_ended(name), RECOVERY_SECONDS)
        code = self._actors[name].exit_code
        if code != 0:
            self.outcome.broken.append(f"{name} ended with {code}")
            self._actors[name].kill()

    def _all_are_back(self) -> bool:
        self._look()
        return not self._back_at

    def _has_ended(self, name: str) -> bool:
        self._observe()
        return not self._actors[name].is_running

    def _observe(self) -> None:
        living, now = scan(self._campaign), time.monotonic()
        for strike in self.outcome.strikes:
            strike.look(living, now)

    def _wait(self, met: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not met() and time.monotonic() < deadline:
            time.sleep(TICK)

    def close(self) -> None:
        """Leave nobody behind, whatever happened."""
        for actor in self._actors.values():
            actor.kill()
        for process in scan(self._campaign):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
