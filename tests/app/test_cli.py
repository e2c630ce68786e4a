"""What a person at a terminal sees: forecasts, guesses, pictures, refusals, exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.cli import app
from app.db import migrate, open_database
from app.report import show, show_models, show_versions
from app.settings import Settings
from app.versions import Manifest, Versions
from models.checkpoint import save_random
from tests.live import running

SHOPCAST = Path(sys.executable).parent / "shopcast"


class Terminal:
    """Runs commands in this process, as from a shell with these settings."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings

    def run(self, *words: str | Path | int, code: int = 0) -> tuple[str, str]:
        """What a command writes to stdout and stderr."""
        runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", **self._settings})
        result = runner.invoke(app, [str(word) for word in words])
        told = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        assert result.exit_code == code, told
        assert "Traceback" not in told
        return result.stdout, result.stderr

    def table(self, *words: str | Path) -> pd.DataFrame:
        """The CSV that a command writes to stdout."""
        out, _ = self.run(*words)
        return pd.read_csv(StringIO(out), parse_dates=["timestamp"])


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "SHOPCAST_SERIES_CHECKPOINT": str(tiny_checkpoint),
        "SHOPCAST_DATA_DIR": str(tmp_path / "var"),
        "SHOPCAST_THREADS": "1",
    }


@pytest.fixture
def terminal(settings: dict[str, str]) -> Terminal:
    return Terminal(settings)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """Three items, 60 days and 7 days ahead with a price."""
    days = pd.date_range("2026-01-01", periods=67)
    parts = [
        pd.DataFrame({"sku": item, "date": days, "units": range(67), "price": price})
        for item, price in (("apple", 1.0), ("pear", 2.0), ("plum", 3.0))
    ]
    rows = pd.concat(parts, ignore_index=True).astype({"units": float})
    rows.loc[rows["date"] > days[59], "units"] = None
    rows.loc[rows["date"].dt.dayofweek == 0, "price"] = 0.5
    rows.to_csv(tmp_path / "sales.csv", index=False)
    return tmp_path / "sales.csv"


def test_forecast_of_a_long_file(terminal: Terminal, long: Path) -> None:
    out, err = terminal.run("predict", "sales", long, "--horizon", "7")
    rows = pd.read_csv(StringIO(out))
    assert list(rows.columns) == ["item_id", "timestamp", "mean", "0.1", "0.5", "0.9"]
    assert len(rows) == 21
    assert rows["timestamp"].tolist()[:2] == ["2026-03-02", "2026-03-03"]
    assert (rows["0.1"] <= rows["0.5"]).all()
    assert (rows["0.5"] <= rows["0.9"]).all()
    assert err.splitlines() == [
        "· long table: time = date, target = units, item = sku",
        "· frequency D, from the dates",
        "· known ahead: price",
        "· 3 of 3 forecast by the sales checkpoint",
    ]


def test_forecasts_of_both_wide_layouts_equal_the_long_one(
    terminal: Terminal, long: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(long).dropna(subset=["units"])
    by_day = rows.pivot_table(index="date", columns="sku", values="units")
    by_day.to_csv(tmp_path / "by_day.csv")
    by_day.T.to_csv(tmp_path / "by_item.csv")
    rows.drop(columns="price").to_parquet(tmp_path / "long.parquet")
    wanted = terminal.table("predict", "sales", tmp_path / "long.parquet", "--horizon", "3")
    for name in ("by_day.csv", "by_item.csv"):
        made = terminal.table("predict", "sales", tmp_path / name, "--horizon", "3")
        pd.testing.assert_frame_equal(made, wanted)


def test_items_levels_and_output(terminal: Terminal, long: Path, tmp_path: Path) -> None:
    words = ("predict", "sales", long, "--horizon", "2", "--item", "pear", "--levels", "0.99,0.2")
    for name in ("out.csv", "out.parquet"):
        out, err = terminal.run(*words, "--output", tmp_path / name)
        assert out == ""
        assert f"written: 2 rows to {tmp_path / name}" in err
    rows = pd.read_parquet(tmp_path / "out.parquet")
    assert list(rows.columns) == ["item_id", "timestamp", "mean", "0.99", "0.2"]
    assert rows["item_id"].unique().tolist() == ["pear"]
    assert (rows["0.99"] > rows["0.2"]).all()
    assert len(pd.read_csv(tmp_path / "out.csv")) == 2


@pytest.mark.parametrize("name", ["out.png", "out.html"])
def test_plot_is_written_beside_the_table(
    terminal: Terminal, long: Path, tmp_path: Path, name: str
) -> None:
    plot = tmp_path / name
    rows = terminal.table("predict", "sales", long, "--horizon", "5", "--plot", plot)
    assert list(rows.columns) == ["item_id", "timestamp", "mean", "0.1", "0.5", "0.9"]
    assert plot.stat().st_size > 20_000


def test_a_terminal_gets_a_table_that_fits_it() -> None:
    times = pd.date_range("2026-01-01", periods=80)
    rows = pd.DataFrame({"item_id": "a", "timestamp": times, "mean": 1234.5678, "0.5": 3.0})
    console = Console(force_terminal=True, width=60, file=StringIO(), color_system=None)
    show(rows, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2026-01-01" in text
    assert "1,235" in text
    assert "24 more rows; --output FILE takes them all" in text


def test_models_are_a_table_on_a_terminal() -> None:
    network = {"device": "cpu", "dtype": "float32", "checkpoint": "series", "parameters": 2_000_000}
    versions = [{"version": 3, "network": network}]
    console = Console(force_terminal=True, width=90, file=StringIO(), color_system=None)
    models = [{"name": "sales", "aliases": {"production": 3}, "versions": versions}]
    show_models(models, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.split("\n")[1].split() == [
        *("sales", "3", "production", "series", "2,000,000", "cpu,", "float32")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--horizon", "0"), "'--horizon': Input should be greater than or equal to 1"),
        (("--levels", "0.1,high"), "'0.1,high' is no list like 0.1,0.5,0.9"),
        (("--levels", "0.5,1"), "levels lie between 0 and 1, each once"),
        (("--item", "apples"), "error: no item 'apples' among 3 in the file; near it: 'apple'"),
        (("--freq", "fortnight"), "'fortnight' is no frequency; use D, W-MON"),
        (("--known-future", "price", "--horizon", "8"), "known for 7 of 8 future periods"),
        (("--known-future", "prize"), "no column 'prize'; the file has 'sku', 'date'"),
        (("--plot", "out.jpg"), "out.jpg does not end in .png or .html"),
        (("--output", "nowhere/out.csv"), "no directory"),
        (("--model", "9"), "has no version or alias '9'"),
        (("--checkpoint", "nowhere"), "the series checkpoint is refused"),
        (("--device", "tpu"), "--device: "),
        (("--server", "localhost"), "'localhost' is no address like http://127.0.0.1:8000"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    terminal: Terminal, long: Path, words: tuple[str, ...], message: str
) -> None:
    out, err = terminal.run("predict", "sales", long, *words, code=2)
    assert out == ""
    assert message in " ".join(err.replace("│", " ").split())


def test_a_bad_line_is_named(terminal: Terminal, long: Path) -> None:
    with long.open("a") as file:
        file.write("apple,2026-01-05,4,1\n")
    _, err = terminal.run("predict", "sales", long, code=2)
    assert "error: line 203: item 'apple' has a second row for 2026-01-05 (the first is" in err


def test_a_wrong_setting_is_named(terminal: Terminal, settings: dict[str, str], long: Path) -> None:
    settings["SHOPCAST_BATCH_ROWS"] = "many"
    _, err = terminal.run("predict", "sales", long, code=2)
    assert err.splitlines()[-1].startswith("error: SHOPCAST_BATCH_ROWS: ")


def test_models_of_the_settings(terminal: Terminal) -> None:
    out, _ = terminal.run("models")
    assert '"name": "sales"' in out
    assert '"parameters":' in out


def test_versions_are_listed_promoted_rolled_back_and_deleted(
    terminal: Terminal, settings: dict[str, str], tmp_path: Path
) -> None:
    kept = Settings(data_dir=tmp_path / "var")
    assert settings["SHOPCAST_DATA_DIR"] == str(kept.data_dir)
    migrate(kept.database)
    engine = open_database(kept.database)
    versions = Versions(engine, kept)
    for seed in (1, 2):
        made = save_random(tmp_path / str(seed), "tiny", seed=seed)
        versions.register("sales", made, Manifest("finetune", parent=seed - 1, dataset_id="ds_1"))
    engine.dispose()
    told = [
        terminal.run("models", *words)[0]
        for words in (("promote", "sales", 1), ("promote", "sales", 2), ("rollback", "sales"))
    ]
    assert [each.strip() for each in told] == [
        "production of sales is version 1",
        "production of sales is version 2; before it was 1",
        "production of sales is version 1; before it was 2",
    ]
    (listed,) = json.loads(terminal.run("models", "list")[0])
    assert listed["aliases"] == {"production": 1}
    assert [each["dataset_id"] for each in listed["versions"]] == ["ds_1", "ds_1"]
    _, err = terminal.run("models", "delete", "sales", 1, code=1)
    assert "version 1 of sales is production; promote another one first" in err
    assert "deleted" in terminal.run("models", "delete", "sales", 2)[0]
    _, err = terminal.run("models", "promote", "sales", 2, code=2)
    assert "version 2 of sales was deleted; there are 1" in err


def test_versions_are_a_table_on_a_terminal() -> None:
    version = {
        "version": 3,
        "source": "finetune",
        "parent": 2,
        "dataset_id": "ds_1",
        "created_at": "2026-11-25T04:05:06+00:00",
        "size_bytes": 4_317_576,
    }
    console = Console(force_terminal=True, width=90, file=StringIO(), color_system=None)
    models = [{"name": "sales", "aliases": {"candidate": 3}, "versions": [version]}]
    show_versions(models, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert " ".join(text.split("\n")[1].split()) == (
        "sales 3 candidate finetune of 2 ds_1 2026-11-25 04:05 4.3 MB"
    )


def test_migrate_makes_the_database(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("migrate")
    assert (tmp_path / "var" / "shopcast.sqlite3").exists()


# --- a server


@pytest.fixture
def server(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service on the same checkpoint, that takes few inputs a request."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with running(Settings(max_inputs=100)) as address:
        yield address


def test_a_server_answers_as_this_process_does(terminal: Terminal, server: str, long: Path) -> None:
    words = ("predict", "sales", long, "--horizon", "7")
    there = terminal.table(*words, "--server", server)
    pd.testing.assert_frame_equal(there, terminal.table(*words), rtol=1e-4)
    out, _ = terminal.run("models", "--server", server)
    assert '"name": "sales"' in out


def test_many_items_go_to_a_server_in_several_requests(
    terminal: Terminal, server: str, tmp_path: Path
) -> None:
    days = pd.date_range("2026-01-01", periods=30)
    wide = pd.DataFrame({f"item {number}": range(30) for number in range(150)}, index=days)
    wide.to_csv(tmp_path / "wide.csv", index_label="date")
    rows = terminal.table(
        "predict", "sales", tmp_path / "wide.csv", "--horizon", "1", "--server", server
    )
    assert rows["item_id"].tolist() == list(wide.columns)


def test_what_a_server_refuses_is_told_in_its_words(
    terminal: Terminal, server: str, long: Path
) -> None:
    words = ("predict", "sales", long, "--server", server, "--horizon", "7")
    _, err = terminal.run(*words, "--model", "9", code=2)
    assert "the server answered 404" in err
    assert "'9'" in err


def test_a_server_that_is_not_there_is_exit_code_1(terminal: Terminal, long: Path) -> None:
    _, err = terminal.run("predict", "sales", long, "--server", "http://127.0.0.1:9", code=1)
    assert "error: no answer from http://127.0.0.1:9" in err
    assert "`shopcast serve` starts one" in err


# --- as a process of its own


def shell(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [SHOPCAST, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize("words", [("--help",), ("version",), ("predict", "sales", "--help")])
def test_help_and_version_load_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from app.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "heavy = {'torch', 'pandas', 'numpy', 'sqlalchemy', 'fastapi', 'httpx'}; "
        "sys.exit(str(heavy & sys.modules.keys() or ''))"
    )
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""


def test_version_is_the_installed_one() -> None:
    assert shell("version").stdout == f"shopcast {version('shopcast')}\n"


def test_a_pipe_gets_csv_and_stderr_the_rest(settings: dict[str, str], long: Path) -> None:
    done = shell("predict", "sales", str(long), "--horizon", "1", env=settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("item_id,timestamp,mean,0.1,0.5,0.9\napple,2026-03-02,")
    assert all(line.startswith("· ") for line in done.stderr.splitlines())


def test_a_missing_file_is_exit_code_2_without_a_traceback() -> None:
    done = shell("predict", "sales", "nowhere.csv")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


# --- inventory


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """Apples with two orders on their way, pears, and an item that was never sold."""
    path = tmp_path / "stock.csv"
    path.write_text(
        "item_id,on_hand,lead_time,on_order,in_periods,order_multiple\n"
        "apple,40,2,20,1,6\napple,40,2,10,2,6\npear,0,2,,,6\nkiwi,1,2,,,1\n"
    )
    return path


def test_inventory_of_a_file_is_ordered_and_drawn(
    terminal: Terminal, long: Path, stock: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "stock.png"
    words = ("predict", "inventory", long, "--stock", stock, "--horizon", "7", "--plot", picture)
    out, err = terminal.run(*words)
    rows = pd.read_csv(StringIO(out)).set_index("item_id")
    assert rows.index.tolist() == ["apple", "pear"]
    assert rows.loc["apple", "on_order"] == 30
    assert (rows["order_quantity"] % 6 == 0).all()
    assert rows.loc["pear", "first_likely_stockout"] == "2026-03-02"
    assert "1 items left out: not in the stock file" in err
    assert "1 items of the stock file left out: no sales, such as kiwi (--population" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_inventory_is_the_same_from_a_server(
    terminal: Terminal, settings: dict[str, str], long: Path, stock: Path, tmp_path: Path
) -> None:
    words = ("predict", "inventory", long, "--stock", stock, "--service-level", "0.9")
    here, _ = terminal.run(*words)
    service = Settings(
        series_checkpoint=Path(settings["SHOPCAST_SERIES_CHECKPOINT"]), data_dir=tmp_path / "there"
    )
    with running(service) as address:
        there, _ = terminal.run(*words, "--server", address)
    assert here == there


def test_sales_of_an_empty_shelf_are_not_all_of_demand(
    terminal: Terminal, settings: dict[str, str], long: Path, stock: Path, tmp_path: Path
) -> None:
    sales = pd.read_csv(long)
    sales["empty"] = sales["units"].notna() & (sales.index % 5 == 0)
    sales.loc[sales["empty"], "units"] = 0
    sales.to_csv(tmp_path / "short.csv", index=False)
    words = ("predict", "inventory", tmp_path / "short.csv", "--stock", stock)
    as_sold, _ = terminal.run(*words)
    here, err = terminal.run(*words, "--out-of-stock", "empty")
    assert here != as_sold
    assert "empty" not in err
    service = Settings(
        series_checkpoint=Path(settings["SHOPCAST_SERIES_CHECKPOINT"]), data_dir=tmp_path / "there"
    )
    with running(service) as address:
        there, _ = terminal.run(*words, "--out-of-stock", "empty", "--server", address)
    assert here == there
    plain = ("predict", "sales", tmp_path / "short.csv")
    assert terminal.run(*plain, "--out-of-stock", "empty")[0] != terminal.run(*plain)[0]


def test_items_never_sold_are_planned_by_a_population(
    terminal: Terminal, settings: dict[str, str], long: Path, stock: Path, tmp_path: Path
) -> None:
    words = ("predict", "inventory", long, "--stock", stock, "--horizon", "7")
    likes = ("--population", long)
    out, err = terminal.run(*words, *likes, "--plot", tmp_path / "stock.png")
    rows = pd.read_csv(StringIO(out)).set_index("item_id")
    assert rows["cold_start"].to_dict() == {"apple": False, "pear": False, "kiwi": True}
    assert (rows["order_quantity"] > 0)["kiwi"]
    assert rows.loc["kiwi", "first_likely_stockout"] == "2026-03-02"
    assert "1 never sold, such as kiwi, planned by 3 like ones" in err
    assert "no sales" not in err
    without = pd.read_csv(StringIO(terminal.run(*words)[0])).set_index("item_id")
    pd.testing.assert_frame_equal(rows.drop("kiwi"), without, check_dtype=False)

    alone, _ = terminal.run(*words, *likes, "--item", "kiwi")
    assert alone.splitlines() == [out.splitlines()[0], out.splitlines()[3]]
    service = Settings(
        series_checkpoint=Path(settings["SHOPCAST_SERIES_CHECKPOINT"]), data_dir=tmp_path / "there"
    )
    with running(service) as address:
        there, _ = terminal.run(*words, *likes, "--server", address)
    assert there == out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sku,date\npear,2026-01-01\n", "which column is to be forecast?"),
        ("sku,date,units\npear,2026-01-01,many\n", "line 2: column 'units' holds 'many'"),
        ("sku,date,units\npear,2026-01-01,\npear,2026-01-02,\n", "target column is empty"),
        ("sku,date,units\nfig,2026-01-05,1\nfig,2026-01-12,2\n", "its periods are W-MON"),
    ],
)
def test_a_mistake_in_the_population_is_told_with_its_file(
    terminal: Terminal, long: Path, stock: Path, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "likes.csv").write_text(text)
    words = ("predict", "inventory", long, "--stock", stock)
    _, err = terminal.run(*words, "--population", tmp_path / "likes.csv", code=2)
    assert "likes.csv: " in err
    assert told in err


def test_an_item_that_was_always_out_of_stock_is_planned_by_a_population(
    terminal: Terminal, long: Path, stock: Path, tmp_path: Path
) -> None:
    sales = pd.read_csv(long).assign(empty=0)
    sales.loc[sales["sku"] == "pear", ["units", "empty"]] = [0, 1]
    sales.to_csv(tmp_path / "short.csv", index=False)
    words = ("predict", "inventory", tmp_path / "short.csv", "--stock", stock, "--item", "pear")
    empty = ("--out-of-stock", "empty")
    assert "parameters.population" in terminal.run(*words, *empty, code=2)[1]
    _, err = terminal.run(*words, *empty, "--population", tmp_path / "short.csv")
    assert "1 never sold, such as pear" in err


def test_a_large_population_is_thinned(
    terminal: Terminal, long: Path, stock: Path, tmp_path: Path
) -> None:
    days = pd.date_range("2026-01-01", periods=9)
    parts = [pd.DataFrame({"sku": f"like-{n}", "date": days, "units": n % 7}) for n in range(300)]
    pd.concat(parts).to_csv(tmp_path / "likes.csv", index=False)
    words = ("predict", "inventory", long, "--stock", stock, "--item", "kiwi")
    _, err = terminal.run(*words, "--population", tmp_path / "likes.csv")
    assert "likes.csv: 256 of 300 series taken, evenly" in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("item_id,on_hand,lead_tme\n", "did you mean lead_time?"),
        ("item_id,lead_time\n", "needs a column on_hand"),
        ("item_id,on_hand\n", "needs a column lead_time"),
        ("item_id,on_hand,lead_time\n", "no row below its header"),
        ("item_id,on_hand,lead_time\n,1,2\n", "line 2: item_id is empty"),
        ("item_id,on_hand,lead_time\napple,many,2\n", "line 2: on_hand is 'many'"),
        ("item_id,on_hand,lead_time\napple,nan,2\n", "no number to reckon with"),
        ("item_id,on_hand,lead_time\napple,1,2\napple,3,2\n", "an earlier row of the item says 1"),
        ("item_id,on_hand,lead_time\napple,-1,2\n", 'unmet_demand "backorder"'),
        ("item_id,on_hand,lead_time\nkiwi,1,2\n", "no item of the sales is in the stock file"),
    ],
)
def test_a_mistake_in_the_stock_is_told(
    terminal: Terminal, long: Path, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "wrong.csv").write_text(text)
    _, err = terminal.run("predict", "inventory", long, "--stock", tmp_path / "wrong.csv", code=2)
    assert told in err
