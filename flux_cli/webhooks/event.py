"""Webhook events: the JSON object about a task that the service posts."""

from dataclasses import dataclass

from flux_cli.api.task import Task, read_task, read_task_id
from flux_cli.api.transport import Response

PATH = "/webhook"
"""The only path of the receiver."""

MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class WebhookEvent:
    """A received webhook: the task that the body describes, and the body as received.

    The secret is the same in every request, so it authenticates neither the body nor the time.
    """

    task: Task
    body: bytes


def read_event(body: bytes) -> WebhookEvent:
    """Return the event in a webhook's body.

    Raises:
        ValueError: The body is not a JSON object with a task ID; the message is for the sender.
    """
    try:
        content = Response(200, {}, body).json()
    except ValueError:
        raise ValueError("the body is not JSON") from None
    task_id = read_task_id(content) if isinstance(content, dict) else None
    if task_id is None:
        raise ValueError("the body is not a JSON object with a task_id")
    return WebhookEvent(read_task(content, task_id), body)
