"""Controls: what Keyferry never answers starts a Pod with an empty folder, and the checks of the other scenarios see it.
"""

import json

import examples
from cluster import EXAMPLES, Failed, contains, no_file_is_empty, pod, secret_provider_class

SHORT = True
# The driver has another interval here.
LANE = "controls"

PROVIDER = "recorder"


def run(cluster):
    # With an interval of 0 s the driver asks again, and the trap is closed.
    cluster.node.start_driver("2m")
    cluster.node.start_recorder()
    cluster.namespace("controls")
    # An old driver has no such interval: it rotates in a loop of its own.
    if not cluster.node.driver_is_old:
        a_code_of_the_trap_starts_an_empty_pod(cluster)
    another_code_makes_an_event(cluster)
    a_wrong_mode_is_seen(cluster)
    cluster.drop_namespace("controls")


def a_code_of_the_trap_starts_an_empty_pod(cluster):
    answers(cluster, "late", [{"code": "DEADLINE_EXCEEDED", "message": "out of time"}])
    cluster.ready("controls", "late", seconds=60)
    must_fail(lambda: no_file_is_empty(cluster, "controls", ["late"], {"token": 7}), "saw      {}")


def another_code_makes_an_event(cluster):
    answers(cluster, "broken", [{"code": "INTERNAL", "message": "broken on purpose"}, {"code": "INTERNAL", "message": "broken on purpose"},
                                {"files": {"token": "at last"}}])
    cluster.ready("controls", "broken", seconds=60)
    failed = {event: count for event, count in cluster.failed_mounts("controls").items() if "broken on purpose" in event}
    if sum(failed.values()) != 2:
        raise Failed(f"two mounts failed, and the events say {failed}")
    no_file_is_empty(cluster, "controls", ["broken"], {"token": 7})


def a_wrong_mode_is_seen(cluster):
    """The example file-modes.yaml with another mode: the check of the example's files must refuse it."""
    cluster.set_secret("shop/db", username="app", password="secret", host="db", port="5432")
    broken = (EXAMPLES / "file-modes.yaml").read_text().replace("mode: 0400", "mode: 0444")
    cluster.apply(EXAMPLES / "namespace.yaml", broken)
    cluster.ready("shop", "file-modes")
    must_fail(lambda: examples.has_its_files(cluster, EXAMPLES / "file-modes.yaml"), "the mode of /secrets/password")
    cluster.delete("shop", "pod/file-modes")


def answers(cluster, name, list_of_answers):
    cluster.apply(
        secret_provider_class(name, "controls", "", provider=PROVIDER, answers=json.dumps(list_of_answers)),
        pod(name, "controls", name),
    )


def must_fail(check, words):
    try:
        check()
    except Failed as failed:
        contains(str(failed), words, "what the check says")
    else:
        raise Failed(f"a check passed that should have said {words!r}")
