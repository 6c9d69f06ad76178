"""The check of all tables, run by Airflow: no copy DAG runs here."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from demo.embedded_server import EmbeddedServer, free_ports
from demo.shop import fill
from extract_load import Settings, TableSettings, load_dbt_project, run
from tests.dags.airflow_home import DAG_ID, ROOT, AirflowHome
from tests.dags.alert_servers import (
    Mailbox,
    Webhook,
    assert_no_secret,
    body_of,
    running_mail_server,
    running_webhook,
)
from tests.support.command import Outcome
from tests.support.landing import environment
from tests.support.servers import Database, fresh_database

pytestmark = pytest.mark.timeout(600)

LIMITS = {
    "email": ["on-call@example.com"],
    "webhook_conn_id": "a_webhook",
    "max_age_seconds": 93600,
}


@dataclass
class Watch:
    """An Airflow that checks a warehouse; of its tables only `products` was ever published."""

    home: AirflowHome
    warehouse: Database
    mailbox: Mailbox
    webhook: Webhook
    environment: dict[str, str] = field(default_factory=dict)

    def check(self) -> Outcome:
        """Returns the outcome of one check; both servers forget what was before."""
        self.mailbox.mails.clear()
        self.webhook.requests.clear()
        home = replace(self.home, variables=self.environment)
        outcome = home.airflow("dags", "test", "monitoring_dag", timeout=120)
        mails = map(str, self.mailbox.mails)
        assert_no_secret(outcome.stdout, outcome.stderr, *mails, *self.webhook.texts)
        return outcome

    def limit(self, **limits: object) -> None:
        """Sets thresholds in the Variable."""
        self.environment["AIRFLOW_VAR_EXECUTION_MONITORING_CONFIGS"] = json.dumps(
            {**LIMITS, **limits}
        )

    def remembered(self) -> set[str]:
        """Returns the kinds of the problems somebody was told of."""
        ((text,),) = self.home.rows("SELECT val FROM variable WHERE key = 'extract_load_told'")
        return {kind for *_, kind in json.loads(text)}


@pytest.fixture
def watch(
    source_server: EmbeddedServer,
    target_server: EmbeddedServer,
    tmp_path: Path,
    manifest: Path,
) -> Iterator[Watch]:
    with ExitStack() as stack:
        source = stack.enter_context(fresh_database(source_server, "shop"))
        warehouse = stack.enter_context(fresh_database(target_server, "dwh"))
        mailbox = stack.enter_context(running_mail_server())
        webhook = stack.enter_context(running_webhook())
        with closing(source.connect()) as session:
            fill(session, 100)
        products = [t for t in declared() if t.target.table == "digitalocean_products"]
        both = environment(source, warehouse)
        assert not run(Settings(tables=tuple(products)), both).failed

        home = AirflowHome(tmp_path, manifest, {})
        watch = Watch(home, warehouse, mailbox, webhook)
        (nobody_listens,) = free_ports(1)
        watch.environment = {
            "AIRFLOW_CONN_POSTGRES_DEFAULT": warehouse.uri,
            "AIRFLOW_CONN_FS2_POSTGRES": replace(warehouse, port=nobody_listens).uri,
            "AIRFLOW_CONN_SMTP_DEFAULT": mailbox.connection,
            "AIRFLOW_CONN_A_WEBHOOK": webhook.connection,
            "AIRFLOW__CORE__FERNET_KEY": "",
        }
        watch.limit()
        migrated = home.airflow("db", "migrate")
        assert migrated.status == 0, migrated.stderr
        yield watch


def declared() -> tuple[TableSettings, ...]:
    return load_dbt_project(ROOT / "dbt_project", {}).tables


def test_a_problem_is_told_when_it_begins_and_when_it_ends(watch: Watch) -> None:
    everything = len(declared())

    # Never published, and one of the two targets down: one mail, one message.
    first = watch.check()
    assert first.status == 0, first.stdout[-3000:]
    (mail,) = watch.mailbox.mails
    body = body_of(mail)
    assert mail["To"] == "on-call@example.com"
    assert body.count("it was never published") == everything - 2
    assert body.count("target &quot;fs2_postgres&quot;: could not connect to target") == 1
    assert "digitalocean_products" not in body
    assert "/dags/monitoring_dag/runs/" in body
    assert len(watch.webhook.texts) == 1
    assert watch.remembered() == {"never_published", "no_answer"}
    (line,) = [
        line
        for line in first.stdout.splitlines()
        if "postgres_default:raw_data.digitalocean_products" in line
    ]
    assert " done " in line
    assert " MiB " in line
    assert "error rate" in first.stdout

    # Nothing new: nobody is told. Loads tell what is wrong with the Variable; the check goes on.
    watch.environment["AIRFLOW_VAR_TABLE_CONFIGS"] = "{"
    second = watch.check()
    assert second.status == 0
    assert "the tables are checked as declared. table_configs: is no JSON" in second.stdout
    del watch.environment["AIRFLOW_VAR_TABLE_CONFIGS"]
    assert (watch.mailbox.mails, watch.webhook.texts) == ([], [])

    # Too old without any run of its DAG, and too large; the target is back.
    watch.warehouse.execute(
        "UPDATE extract_load.watermarks SET published_at = published_at - interval '3 days'"
    )
    watch.limit(dags={DAG_ID: {"max_memory_mb": 1}})
    watch.environment["AIRFLOW_CONN_FS2_POSTGRES"] = watch.warehouse.uri
    assert watch.check().status == 0
    (mail,) = watch.mailbox.mails
    body = body_of(mail)
    assert "products in postgres_default: its rows are 3.0 days old" in body
    assert "detail: Published last at 20" in body
    assert "its last run held " in body
    assert "max_memory_mb = 1." in body
    assert "raw_data.digitalocean_users_fs2 in fs2_postgres: it was never published" in body
    assert "ended: target &quot;fs2_postgres&quot;: gave no answer" in body
    assert watch.remembered() == {"never_published", "age", "memory"}


def test_what_nobody_could_be_told_is_told_by_a_later_check(watch: Watch) -> None:
    """The check is red meanwhile, and that is told once."""
    watch.limit(email=[])
    watch.webhook.statuses += [500, 500]
    failed = watch.check()
    assert failed.status != 0
    told = watch.webhook.texts[2:]
    assert len(told) == 1
    assert "*check*: no message about " in told[0]
    assert "hint: Mend the mail server or the webhook." in told[0]
    assert watch.remembered() == {"check_failed"}

    watch.webhook.statuses += [500, 500]
    assert watch.check().status != 0
    assert len(watch.webhook.texts) == 2

    assert watch.check().status == 0
    (text,) = watch.webhook.texts
    assert "it was never published" in text
    assert watch.remembered() == {"never_published", "no_answer"}
