"""The load: jobs that arrive all the time, whoever reads, cancels or deletes them, and each one's day in court."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from typing import Any

import httpx2

from chaos.findings import Findings
from chaos.fleet import Fleet
from chaos.judge import Log, judge_log, judge_view
from chaos.judge_readers import judge_reader, judge_without_log
from chaos.measure import Reruns
from chaos.oracle import calls_too_many, terms_of
from chaos.plan import JobPlan, ReaderPlan
from chaos.provider import NumberedProvider
from chaos.readers import ClientReader, Reader
from chaos.transcript import Seen, Transcript

END_WITHIN_S = 100.0
"""Every accepted job has its terminal event so long after its POST: below the deadline, which is for lost causes."""
_ASK_S = 8.0
_AUDITOR = ReaderPlan("exact", "steady", 0, 0.0, 0, None)


class Load:
    """Everything that clients do. `live`: accepted jobs that have no terminal event yet, as far as is known."""

    def __init__(self, fleet: Fleet, provider: NumberedProvider, findings: Findings, reruns: Reruns, seed: int) -> None:
        self._fleet = fleet
        self._provider = provider
        self._findings = findings
        self._reruns = reruns
        self._seed = seed
        self._http = httpx2.AsyncClient(timeout=_ASK_S, verify=False, limits=httpx2.Limits(max_connections=None))
        self.live: dict[str, JobPlan] = {}
        self.readers: set[Reader | ClientReader] = set()
        self.judged: dict[str, list[tuple[str, str | None]]] = {}
        """Job → id and text of each event, as a reader got them who asked for the entries themselves."""
        self.ends: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.resumes: Counter[str] = Counter()
        self.unanswered = 0

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, plan: JobPlan) -> None:
        """One job, from its POST to its judgement."""
        await asyncio.sleep(plan.at_s)
        clients = [reader for reader in plan.readers if reader.dialect == "client"]
        key = f"{self._seed}-{plan.name}" if plan.posts or clients else None
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(self._read_by_client(plan, reader, key or "")) for reader in clients]
            posts = [group.create_task(self._post(plan, key, n)) for n in range(max(1, plan.posts))]
            jobs = {await post for post in posts} - {None}
            job = next(iter(jobs), None)
            if job is None:
                self.unanswered += 1
                return
            if len(jobs) > 1:
                self._findings.add(job, [f"one Idempotency-Key made the jobs {sorted(map(str, jobs))}"], [])
            self.live[job] = plan
            others = [reader for reader in plan.readers if reader.dialect != "client"]
            reading += [group.create_task(self._read(job, reader, n)) for n, reader in enumerate(others)]
            told = group.create_task(self._tell(job, plan))
        transcripts = [task.result() for task in reading]
        await self._judge(job, plan, transcripts, told.result())

    async def _post(self, plan: JobPlan, key: str | None, number: int) -> str | None:
        """POST it; with a key until it is answered, without one once. None where no answer came."""
        headers = {} if key is None else {"Idempotency-Key": key}
        end = time.monotonic() + END_WITHIN_S
        while time.monotonic() < end:
            try:
                response = await self._ask("POST", "/jobs", number, json=plan.body, headers=headers)
            except httpx2.RequestError:
                response = None
            if response is not None and response.status_code in (200, 202):
                return str(response.json()["id"])
            if response is not None and response.status_code != 503:
                self._findings.add(plan.name, [f"POST was answered {response.status_code}: {response.text}"], [])
                return None
            if key is None:
                return None
            number += 1
            await asyncio.sleep(0.2)
        self._findings.add(plan.name, ["a POST with a key got no answer in time"], [])
        return None

    async def _ask(self, method: str, path: str, number: int, **more: Any) -> httpx2.Response:
        port = self._fleet.ports[number % len(self._fleet.ports)]
        return await self._http.request(method, f"http://127.0.0.1:{port}{path}", **more)

    async def ask_until(self, method: str, path: str, *wanted: int) -> httpx2.Response | None:
        """Ask one node after the other until one of the wanted answers comes."""
        number, end = random.randrange(2), time.monotonic() + END_WITHIN_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx2.RequestError):
                response = await self._ask(method, path, number)
                if response.status_code in wanted:
                    return response
            number += 1
            await asyncio.sleep(0.2)
        return None

    async def _read(self, job: str, reader: ReaderPlan, number: int) -> Transcript:
        return await self._follow(Reader(self._fleet.ports, job, reader, f"{self._seed}/{job}/{number}"))

    async def _read_by_client(self, plan: JobPlan, reader: ReaderPlan, key: str) -> Transcript:
        return await self._follow(ClientReader(self._fleet.ports, reader, plan.body, key))

    async def _follow(self, reader: Reader | ClientReader) -> Transcript:
        self.readers.add(reader)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WITHIN_S + 20):
                await reader.run()
        self.readers.discard(reader)
        kind = f"{reader.transcript.dialect}/{reader.transcript.manner}"
        self.kinds[kind] += 1
        self.events[kind] += reader.transcript.events
        self.resumes[kind] += reader.resumes
        return reader.transcript

    async def _tell(self, job: str, plan: JobPlan) -> dict[str, str]:
        """Cancel and delete where planned; what the server said: `cancel` → the job's status, `delete` → its status."""
        told: dict[str, str] = {}
        if plan.cancel_s is not None:
            await asyncio.sleep(plan.cancel_s)
            response = await self.ask_until("POST", f"/jobs/{job}/cancel", 200)
            told["cancel"] = response.json()["status"] if response is not None else "no answer"
        if plan.delete_s is not None:
            await asyncio.sleep(plan.delete_s)
            response = await self.ask_until("DELETE", f"/jobs/{job}", 204)
            told["delete"] = "204" if response is not None else "no answer"
        return told

    async def _judge(self, job: str, plan: JobPlan, transcripts: list[Transcript], told: dict[str, str]) -> None:
        if "delete" in told:
            bad = judge_without_log(transcripts)
            response = await self.ask_until("GET", f"/jobs/{job}", 410, 200)
            if told["delete"] != "204" or response is None or response.status_code != 410:
                bad.append(f"deleted ({told['delete']}), and yet it is {response and response.status_code}")
            self.ends["deleted"] += 1
            self._conclude(job, bad, transcripts)
            return
        log = await self._final_log(job)
        if log is None:
            self._conclude(job, [f"no terminal event within {END_WITHIN_S:.0f} s of the POST"], transcripts)
            return
        calls = self._provider.calls[plan.prompt]
        terms = terms_of(plan, calls, cancelled="cancel" in told, within_s=END_WITHIN_S)
        bad = [*judge_log(log, terms), *(line for one in transcripts for line in judge_reader(one, log))]
        bad += calls_too_many(plan, calls, sum(entry.event == "start" for entry in log.entries))
        view = await self.ask_until("GET", f"/jobs/{job}", 200)
        bad += judge_view(log, view.json()) if view is not None else ["the job cannot be shown"]
        end = log.entries[-1]
        if told.get("cancel", end.event) != end.event:
            bad.append(f"cancel was answered {told['cancel']}, the log ends with {end.event}")
        bad += [f"a reader's job is {one.job}" for one in transcripts if one.job != job and one.finish]
        self.judged[job] = [(str(entry.id), entry.data.get("text")) for entry in log.entries]
        self.ends[end.event if end.event != "failed" else f"failed: {end.data['code']}"] += 1
        self._reruns.take(job, log)
        self._conclude(job, bad, transcripts)

    def _conclude(self, job: str, bad: list[str], transcripts: list[Transcript]) -> None:
        self.live.pop(job, None)
        if bad:
            with contextlib.suppress(Exception):
                bad += ["", *self._fleet.dump(job)]
            self._findings.add(job, bad, transcripts)

    async def _final_log(self, job: str) -> Log | None:
        """The log as one replay of the finished job shows it; None where it has no end in time."""
        auditor = Reader(self._fleet.ports, job, _AUDITOR, job)
        try:
            async with asyncio.timeout(END_WITHIN_S):
                await auditor.run()
                if auditor.transcript.finish != "terminal":
                    return None
                while True:
                    replay = Reader(self._fleet.ports, job, _AUDITOR, job)
                    await replay.run()
                    if len(replay.transcript.visits) == 1:
                        entries: list[Seen] = replay.transcript.visits[0].frames
                        return Log(entries)
        except TimeoutError:
            return None
