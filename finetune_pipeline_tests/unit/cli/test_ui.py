"""An address of `finetune ui` is printed when it answers, not when its process has started."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from finetune_pipeline.cli.ui import answers


def test_an_address_answers_when_its_server_is_ready() -> None:
    class Starting(BaseHTTPRequestHandler):
        status = 503

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Starting) as server:
        port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            not_ready = answers(port)
            Starting.status = 200
            ready = answers(port)
        finally:
            server.shutdown()
            thread.join()
    assert (not_ready, ready, answers(port)) == (False, True, False), "nobody listens any more"
