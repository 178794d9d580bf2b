"""QEMU's monitor as QMP has it: JSON, one message a line, over a socket that QEMU was given.

Commands are answered in order; events that come between are kept.
"""

import json
import select
import time

from . import MachineError

ANSWER_S = 30


class Monitor:
    """events  all that QEMU has announced, oldest first"""

    def __init__(self, sock):
        self._sock, self._buffer = sock, b""
        self.events = []

    def open(self):
        self._message(time.monotonic() + ANSWER_S)  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        """What QEMU returns; a MachineError for its error or its end."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MachineError(f"QEMU's monitor is gone before {command}: {error}") from None
        deadline = time.monotonic() + ANSWER_S
        while True:
            message = self._message(deadline)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MachineError(f"QEMU refuses {command}: {message['error'].get('desc')}")
            self._note(message)

    def poll(self):
        """Take in the events that are there."""
        while self._readable(0):
            try:
                self._note(self._message(time.monotonic() + ANSWER_S))
            except MachineError:
                return  # QEMU has ended

    def shutdown_reason(self):
        """Why the machine was switched off, in QEMU's word; None if it was not."""
        self.poll()
        return next((e["data"].get("reason") for e in self.events if e["event"] == "SHUTDOWN"), None)

    def _note(self, message):
        if "event" in message:
            self.events.append(message)

    def _readable(self, seconds):
        return b"\n" in self._buffer or bool(select.select([self._sock], [], [], seconds)[0])

    def _message(self, deadline):
        while b"\n" not in self._buffer:
            if not self._readable(max(0, deadline - time.monotonic())):
                raise MachineError("QEMU's monitor does not answer")
            try:
                data = self._sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise MachineError("QEMU's monitor is gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            raise MachineError(f"QEMU's monitor says {line[:100]!r}") from None
