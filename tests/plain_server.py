"""A local server that says what a test tells it to, and keeps what it was sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class PlainServer:
    """Answers each call with `say(path, body)`: a status, and a body or bytes, and headers where it gives three."""

    def __init__(self, say, models=(404, {})):
        self.say, self.models = say, models
        self.headers, self.asked = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                outer._answer(self, outer.models)

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["content-length"]))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                outer.asked.append(raw.decode())
                outer._answer(self, outer.say(self.path, json.loads(raw)))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def _answer(self, handler, told):
        status, body, *headers = told
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers[0] if headers else {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def chat(text="fine", top=()):
    """A good answer of a chat server, with the first token's alternatives where given."""
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if top:
        choice["logprobs"] = {"content": [{"top_logprobs": [{"token": t, "logprob": v} for t, v in top]}]}
    return 200, {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


def error(status, message, **more):
    """A refusal in the protocol's form."""
    return status, {"error": {"message": message, **more}}
