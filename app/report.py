"""Forecasts for people and their files: a frame, CSV, Parquet, a table on the terminal.

Invariant: one row an item and period, in the order of the forecasts, columns `item_id`,
`timestamp`, `mean` and one for each level, named as the level is written.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from app.forecasters import Forecast

MODEL_COLUMNS = ("model", "version", "alias", "checkpoint", "weights", "runs on")
VERSION_COLUMNS = ("model", "version", "alias", "origin", "dataset", "created", "size")
ORDER_COLUMNS = (
    *("order_quantity", "reorder_point", "order_up_to", "safety_stock", "days_of_cover"),
    *("first_likely_stockout", "expected_service", "cold_start"),
)
ROWS_SHOWN = 56  # of a table on a terminal


def frame(
    forecasts: Sequence[Forecast], levels: Sequence[float], shown: Sequence[float]
) -> pd.DataFrame:
    """The forecasts as rows. levels: those of the forecasts; shown: the columns wanted."""
    return pd.concat([_rows(each, levels, shown) for each in forecasts], ignore_index=True)


def order_frame(plans: Sequence[dict[str, Any]], stocks: dict[str, Any]) -> pd.DataFrame:
    """Plans of /predict/inventory as rows, what to order beside what there is."""
    return pd.DataFrame([_order_row(plan, stocks[str(plan["item_id"])]) for plan in plans])


def _order_row(plan: dict[str, Any], stock: dict[str, Any]) -> dict[str, Any]:
    coming = sum(order["quantity"] for order in stock.get("on_order", ()))
    return {
        "item_id": plan["item_id"],
        "on_hand": stock.get("on_hand"),
        "on_order": coming,
        **{name: _day(plan[name]) for name in ORDER_COLUMNS},
    }


def _day(cell: object) -> object:
    """A time at midnight as its date."""
    return cell.removesuffix("T00:00:00") if isinstance(cell, str) else cell


def _rows(forecast: Forecast, levels: Sequence[float], shown: Sequence[float]) -> pd.DataFrame:
    places = list(levels)
    rows = {"item_id": forecast.item, "timestamp": forecast.times, "mean": forecast.mean}
    quantiles = {str(level): forecast.quantiles[places.index(level)] for level in shown}
    return pd.DataFrame(rows | quantiles)


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write the rows as Parquet or CSV, by the name of the file. Raises OSError."""
    if path.suffix.lower() in {".parquet", ".pq"}:
        rows.to_parquet(path, index=False)
    else:
        _rounded(rows).to_csv(path, index=False)


def show(rows: pd.DataFrame, console: Console) -> None:
    """Print a table for eyes on a terminal, CSV into a pipe."""
    if not console.is_terminal:
        _rounded(rows).to_csv(sys.stdout, index=False)
        return
    table = Table(*[str(name) for name in rows.columns], box=None, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for cells in _texts(rows.head(ROWS_SHOWN)):
        table.add_row(*cells)
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"… {len(rows) - ROWS_SHOWN:,} more rows; --output FILE takes them all")


def show_models(models: Sequence[dict[str, Any]], console: Console) -> None:
    """Print a table of versions for eyes on a terminal, all that is known as JSON into a pipe."""
    _show_versions(models, MODEL_COLUMNS, _network_cells, console)


def show_versions(models: Sequence[dict[str, Any]], console: Console) -> None:
    """The same of versions as they are kept, whether or not anything has loaded them."""
    _show_versions(models, VERSION_COLUMNS, _origin_cells, console)


def _show_versions(
    models: Sequence[dict[str, Any]],
    columns: Sequence[str],
    cells: Callable[[dict[str, Any]], list[str]],
    console: Console,
) -> None:
    if not console.is_terminal:
        console.print_json(data=models)
        return
    table = Table(*columns, box=None, header_style="bold")
    for model in models:
        for version in model["versions"]:
            number, aliased = version["version"], model["aliases"].items()
            aliases = [alias for alias, each in aliased if each == number]
            table.add_row(model["name"], str(number), ", ".join(aliases), *cells(version))
    console.print(table)


def _network_cells(version: dict[str, Any]) -> list[str]:
    network = version["network"]
    if network is None:
        return ["", "", "not loaded"]
    where = f"{network['device']}, {network['dtype']}"
    return [network["checkpoint"], f"{network['parameters']:,}", where]


def _origin_cells(version: dict[str, Any]) -> list[str]:
    parent = version["parent"]
    return [
        version["source"] + ("" if parent is None else f" of {parent}"),
        version["dataset_id"] or "",
        version["created_at"][:16].replace("T", " "),
        f"{version['size_bytes'] / 1e6:.1f} MB",
    ]


def _texts(rows: pd.DataFrame) -> list[list[str]]:
    if "timestamp" not in rows:
        return [["" if pd.isna(cell) else _text(cell) for cell in line] for line in rows.to_numpy()]
    midnight = (rows["timestamp"] == rows["timestamp"].dt.normalize()).all()
    times = rows["timestamp"].dt.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M")
    digits = 0 if rows["mean"].abs().median() >= 1000 else 1
    numbers = rows.iloc[:, 2:].to_numpy(dtype=np.float64)
    return [
        [item, time, *(f"{number:,.{digits}f}" for number in line)]
        for item, time, line in zip(rows["item_id"], times, numbers, strict=True)
    ]


def _text(cell: object) -> str:
    return f"{cell:,.4g}" if isinstance(cell, float) else str(cell)


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Seven significant digits: what a forecast in float32 has to say."""
    numbers = rows.select_dtypes("float").map(lambda number: float(f"{number:.7g}"))
    return rows.assign(**{str(name): numbers[name] for name in numbers})
