"""A job as JSON: the record, and what only its log knows."""

from typing import Any

from api.node import Node
from shared.events import QUEUED_ID
from shared.jobs import JobRecord
from shared.principals import Principal, Right
from shared.transcript import fold


def new_view(record: JobRecord) -> dict[str, Any]:
    """A job that was made a moment ago, as it then stood: nothing more is read for it, so nothing can fail."""
    return {**record.view(), "text": "", "last_event_id": str(QUEUED_ID)}


async def view_for(node: Node, record: JobRecord, principal: Principal) -> dict[str, Any]:
    """The job for one who has changed it, or asked for it again: without `read`, nothing of what it says."""
    if principal.may(Right.READ):
        return await whole_view(node, record)
    return {**record.view(), "metadata": {}}


async def whole_view(node: Node, record: JobRecord) -> dict[str, Any]:
    """The job with its text so far and the cursor that this text ends at."""
    entries = await node.log.read_all(record.key)
    transcript = fold(entry.event for entry in entries)
    view = record.view()
    view["text"] = transcript.text
    if transcript.reasoning:
        view["reasoning"] = transcript.reasoning
    if transcript.tool_calls:
        view["tool_calls"] = transcript.tool_calls
    view["last_event_id"] = str(entries[-1].id) if entries else None
    return view
