"""Stands in for ``llama-server``: listens on a loopback port until it is killed.

Run as ``python -I -S runner_child.py runner --model NAME``. It imports next to nothing, for it must start in milliseconds,
and like the real one it does not notice its parent's death.
"""

import _socket
import os


def main() -> None:
    """Listen, write the port to stdout, accept and close for ever."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    os.write(1, b"%d\n" % listener.getsockname()[1])
    while True:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # pyright: ignore - socket.py costs ten times the start
        os.close(fd)


if __name__ == "__main__":
    main()
