"""What a sweep prints at its end: the leaderboard, and what can be done next."""

from __future__ import annotations

import os
import shlex

from rich.console import Console

from sweep.analysis import leaderboard
from sweep.analysis.budget_forecast import doubling_text
from sweep.core.config import SweepConfig
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.redaction import redact
from sweep.core.stop_request import StopRequest
from sweep.core.trial import TrialRecord
from sweep.driver.command_line import own_command, python_command
from sweep.driver.console import results_table
from sweep.search import ranking
from sweep.storage.sweep_folder import REPORT_FILE
from sweep.tracking.artifacts import make_mlflow_sync
from sweep.tracking.shared_views import CHARTS, LEADERBOARD


def print_conclusion(
    config: SweepConfig, records: list[TrialRecord], console: Console, command: str, stop: StopRequest, *, sent: bool
) -> None:
    """Prints the leaderboard and the next commands.

    Args:
        config: the sweep.
        records: its trials.
        console: where to print.
        command: that continues the sweep.
        stop: why the sweep stopped early, if it did.
        sent: whether MLflow has everything.
    """
    ranked = ranking.rank(records)
    console.print(results_table(config, ranked[:10], title=f"sweep {config.name}: best {min(10, len(ranked))}"))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(leaderboard.summary_line(records))
    for line in leaderboard.notes(records, config.objectives):
        say(line)
    if not stop.by_user and (text := doubling_text(records)):
        say(text)
    folder = os.path.relpath(config.folder)
    say(f"everything lies in {folder}")
    if (config.folder / REPORT_FILE).exists():
        say(f"look at it:         {folder}/{REPORT_FILE}")
    uri = resolve_uri(config.mlflow_uri, config.folder.parent)
    sync = make_mlflow_sync(config, config.train.data.threshold)
    server = redact(uri) if uri.startswith("http") else "http://127.0.0.1:5000"
    if server != redact(uri):
        say(f"compare in MLflow:  {python_command()} -m mlflow ui --backend-store-uri {shlex.quote(redact(uri))}")
    say(f"  the leaderboard:  {server}{sync.page(LEADERBOARD)}")
    say(f"  its charts:       {server}{sync.page(CHARTS)}")
    if not sent:
        again = "" if uri == redact(uri) else " --mlflow_uri URI"  # with its password, which is not kept
        say(f"MLflow has not got everything; send the rest:  {own_command('sweep.sync')} {shlex.quote(folder)}{again}")
    if ranking.best(records):
        say(f"rerun the best:     {own_command('sweep.rerun')} {shlex.quote(folder)}")
    if stop:
        say(f"{'interrupted' if stop.by_user else 'the time is up'}; go on with:  {redact(command)}")
