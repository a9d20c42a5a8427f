"""Start `selfrag serve`, and call it with the `openai` client: at once, then streamed.

    python examples/serve_and_call.py

prints:

    Saturn. Titan is the largest moon of Saturn and the second largest in the Solar System. [1]
    cited: Titan (moon) https://en.wikipedia.org/wiki/Titan_(moon)

    streamed: …Leonardo da Vinci…[1]

Needs `pip install -e ".[local]" openai`. Any OpenAI client works so: set its base URL to that of
the server. In daily use start the server by itself, with `selfrag serve --index my-index`.
"""

import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import urlopen

from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam


def address(server: subprocess.Popen[str]) -> str:
    """Where the server listens, once model and index are open."""
    assert server.stderr is not None
    for said in server.stderr:  # …selfrag: serving http://127.0.0.1:…
        if "serving" in said:
            break
        print(said, end="", file=sys.stderr)
    else:
        sys.exit("the server ended")
    url = said.split()[-1]
    while server.poll() is None:
        try:
            with urlopen(f"{url}/ready"):
                return url
        except HTTPError:  # 503: not yet
            time.sleep(0.2)
    sys.exit(server.stderr.read())


def user(text: str) -> ChatCompletionUserMessageParam:
    """A question as a message."""
    return {"role": "user", "content": text}


def call(client: OpenAI) -> None:
    """Ask for a whole answer, then for one as it is written."""
    titan = user("Which planet has the moon Titan?")
    done = client.chat.completions.create(model="selfrag", messages=[titan])
    print(done.choices[0].message.content)
    for note in done.choices[0].message.annotations or []:
        print("cited:", note.url_citation.title, note.url_citation.url)

    print("\nstreamed: ", end="")
    mona_lisa = user("Who painted the Mona Lisa?")
    for chunk in client.chat.completions.create(model="selfrag", messages=[mona_lisa], stream=True):
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
    print()


def main() -> None:
    """Start a server on a free port, call it, stop it."""
    command = [sys.executable, "-m", "selfrag", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            call(OpenAI(base_url=f"{address(server)}/v1", api_key="any"))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
