"""Renew what README.md shows of the shipped checkpoints: answers to its curls, and the pictures.

    python docs/readme.py

Run it after a checkpoint in models/pretrained has changed.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "forecast.png"
STOCK_PICTURE = PICTURE.with_name("inventory.png")
ITEMS = ("bananas-1082185", "eggs-x-large-981760")
_CURL = re.compile(
    r"^curl http://127.0.0.1:8000(\S+) .*? -d '(.*?'\n```)", re.DOTALL | re.MULTILINE
)
_ANSWER = re.compile(r"(?<=^```json\n).*?(?=^```)", re.DOTALL | re.MULTILINE)


def main() -> None:
    """Renew them."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        _draw(Path(directory))
        answers = [
            _written(_ask(*_asked(text[: shown.start()]), directory))
            for shown in _ANSWER.finditer(text)
        ]
    renewed = iter(answers)
    README.write_text(_ANSWER.sub(lambda _: next(renewed), text), encoding="utf-8")


def _asked(text: str) -> tuple[str, dict[str, Any]]:
    """Path and body of the last curl of a text, which is what an answer behind it answers."""
    path, body = _CURL.findall(text)[-1]
    return path, json.loads(body.partition("'\n```")[0])


def _ask(path: str, payload: dict[str, Any], directory: str) -> dict[str, Any]:
    """What the shipped checkpoint answers, as a service would."""
    from fastapi.testclient import TestClient

    from app.db import migrate
    from app.main import create_app
    from app.settings import Settings

    settings = Settings(data_dir=Path(directory), device="cpu", series_checkpoint=None)
    migrate(settings.database)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        response = client.post(path, json=payload)
    response.raise_for_status()
    return dict(response.json())


def _written(answer: dict[str, Any]) -> str:
    """The answer as JSON for eyes: a line a key of the prediction, few digits."""
    (prediction,) = answer.pop("predictions")
    lines = [
        f"    {json.dumps(name)}: {json.dumps(_rounded(prediction[name]))}" for name in prediction
    ]
    head = {name: answer.pop(name) for name in ("model",)}
    rest = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in answer.items())
    body = ",\n".join(lines).lstrip()
    return (
        f'{{"model": {json.dumps(head["model"])},\n "predictions": [{{\n    {body}}}],\n {rest}}}\n'
    )


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: float(f"{number:.3g}") for key, number in value.items()}
    if isinstance(value, float):
        return float(f"{value:.3g}")
    return [round(number, 1) for number in value] if isinstance(value, list) else value


def _draw(directory: Path) -> None:
    """The pictures, by the commands that the README shows."""
    sales, stock = directory / "sales.csv", directory / "stock.csv"
    example = ROOT / "examples" / "completejourney_sales.py"
    _run(sys.executable, example, sales, "--stock", stock)
    chosen = [word for item in ITEMS for word in ("--item", item)]
    shopcast = Path(sys.executable).with_name("shopcast")
    PICTURE.parent.mkdir(exist_ok=True)
    output = ("--plot", PICTURE, "--output", directory / "forecast.csv")
    _run(shopcast, "predict", "sales", sales, "--horizon", "28", *chosen, *output)
    output = ("--plot", STOCK_PICTURE, "--output", directory / "orders.csv")
    _run(shopcast, "predict", "inventory", sales, "--stock", stock, *chosen, *output)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
