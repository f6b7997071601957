"""Control: with an interval of 1 h, as some set it to spare their store, the same absence starts a Pod with an empty folder.
"""

import trap
from cluster import Failed, contains, no_file_is_empty

LANE = "hour"


def run(cluster):
    cluster.node.start_driver("1h")
    trap.prepare(cluster)
    trap.away(cluster, "away")
    try:
        no_file_is_empty(cluster, "trap", ["away"], {"token": 7})
    except Failed as failed:
        contains(str(failed), "saw      {}", "what the check says of an empty folder")
    else:
        raise Failed("the Pod has its files: the trap of docs/errors.md is closed without the setting")
    cluster.drop_namespace("trap")
