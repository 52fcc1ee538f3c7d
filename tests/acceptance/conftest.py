"""The hard cases run on both databases: on PostgreSQL all of them in `make test-long`, and some in the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import Nursery

HARD_CASES = {
    "test_ca_failures",
    "test_compromise",
    "test_dns_failures",
    "test_first_wait",
    "test_incident",
    "test_incident_kill",
    "test_kill",
    "test_refusals",
    "test_secrets",
    "test_target_failures",
    "test_together",
    "test_whole_way",
}

# Of each module what hangs most on the database: several processes, and what is left by one that died.
IN_THE_SUITE = {
    "test_a_backup_revoked_between_plan_and_run_is_refused_and_the_rest_goes_on",
    "test_a_failover_in_the_first_wait_serves_the_backup_without_further_waiting",
    "test_a_failover_there_and_one_back_at_once_end_where_somebody_wanted",
    "test_a_process_stopped_beyond_its_lease_does_nothing_that_another_has_done",
    "test_a_refill_that_died_is_taken_up_by_the_next_scheduled_run",
    "test_after_a_false_alarm_the_way_back_is_close_and_undo",
    "test_answers_that_keep_breaking_off_are_made_up_for_by_the_next_command",
    "test_from_a_file_of_serials_to_the_backups_on_the_wire",
    "test_no_ca_is_asked_before_every_server_shows_the_values",
    "test_revocation_waits_for_what_was_not_seen_unless_told_otherwise",
    "test_several_reasons_are_all_told",
    "test_refills_at_the_incidents_own_ca_are_held_until_somebody_lets_them_go",
    "test_the_database_holds_private_keys_wrapped_only",
    "test_the_report_has_a_line_for_each_certificate",
    "test_twenty_threads_fail_a_pair_over_once",
    "test_two_pairs_are_issued_at_once_by_two_processes",
    "test_two_processes_that_issue_one_pair_place_one_order_per_ca",
    "test_what_a_dead_process_held_is_free_at_once",
}
IN_THE_SUITE_AS_A_WHOLE = {"test_compromise", "test_whole_way"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in HARD_CASES and "program" in metafunc.fixturenames:
        quick = metafunc.function.__name__ in IN_THE_SUITE or module in IN_THE_SUITE_AS_A_WHOLE
        on_postgres = pytest.param("postgresql", marks=() if quick else pytest.mark.long)
        metafunc.parametrize("program", ["sqlite", on_postgres], indirect=True)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Takes a second to start, so the tests of this process share it; of a child nothing stays but its files."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made
