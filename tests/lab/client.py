"""A client of the lab: launches as Kasm does them.

    client.py DSN [--seconds S | --launches N] [--queries N] [--pause S]
              [--think S] [--autocommit]

A launch is BEGIN, so many sequential queries, COMMIT (psycopg2 sends each by
itself and waits), and then a pause.  With --autocommit it is the queries
alone.  Prints what it counted as JSON.
"""
import argparse
import json
import time

import psycopg2

parser = argparse.ArgumentParser()
parser.add_argument("dsn")
parser.add_argument("--seconds", type=float)
parser.add_argument("--launches", type=int)
parser.add_argument("--queries", type=int, default=10)
parser.add_argument("--pause", type=float, default=0.1)
parser.add_argument("--think", type=float, default=0)
parser.add_argument("--autocommit", action="store_true")
options = parser.parse_args()

conn = psycopg2.connect(options.dsn)
conn.autocommit = options.autocommit
end = None if options.seconds is None else time.monotonic() + options.seconds
launches = 0
exchanges = 0
while ((end is None or time.monotonic() < end)
       and (options.launches is None or launches < options.launches)):
    cursor = conn.cursor()
    for i in range(options.queries):
        if options.think:
            time.sleep(options.think)
        cursor.execute("SELECT %s", (i,))
    if options.think:
        time.sleep(options.think)
    conn.commit()
    launches += 1
    exchanges += options.queries + (0 if options.autocommit else 2)
    time.sleep(options.pause)
conn.close()
print(json.dumps({"launches": launches, "exchanges": exchanges}))
