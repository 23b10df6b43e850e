"""A server with its client, as the tests of this folder use it."""

import http.client
import json
import socket
from typing import Any

from finetune_pipeline.serving.fallback import Fallback
from finetune_pipeline.serving.loading import AnyServed
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.serving.shadow import Shadow
from finetune_pipeline.serving.share import Share
from finetune_pipeline.spec import Task


class Running:
    """A server, and a client that speaks HTTP to it."""

    def __init__(
        self,
        task: Task,
        champion: AnyServed,
        fallback: Fallback | None = None,
        behind: AnyServed | None = None,
        beside: AnyServed | None = None,
        percent: float = 50,
    ) -> None:
        self.champion = champion
        self.messages: list[str] = []
        writer = LogWriter(task.folder / "logs")
        self.shadow = Shadow(behind, writer.write, self.messages.append) if behind else None
        self.share = Share(beside, percent, self.messages.append) if beside else None
        self.service = Service(
            task, lambda: self.champion, writer, self.messages.append, fallback, self.shadow, self.share
        )
        self.server = LocalServer(chat_app(self.service))

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, decoded answer); a body that is bytes is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def chat(self, text: str = "my invoice is wrong", **more: Any) -> tuple[int, Any]:
        return self.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **more})

    def raw(self, length: str, sent: bytes) -> int:
        """The status of an answer to a request whose header says `length`; the server must close the connection."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as connection:
            head = f"POST /feedback HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode("latin-1") + sent)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return int(answer.split()[1])
