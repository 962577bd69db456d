"""A Web App of the lab: launches that arrive at random, whatever became of those
before, through a real pool of SQLAlchemy's.

    load.py DSN POOL

Reads commands, a line each, and answers each with a line of JSON:

warm N              N launches by each connection of the pool: for how long a
                    launch holds one, on average
load RATE S SEED    so many launches a second, for so many seconds and LEAD_S

A launch is BEGIN, 6 to 18 queries one after the other, and COMMIT, and takes
from its arrival until its connection is back in the pool.  What arrives is
RATE times that many launches, at times that are independent of each other: a Poisson
process of which the number is known; and of each length there are as many.  SEED
are the dice.  What arrives in the first LEAD_S is not counted, as it finds the
pool empty.

Times are in milliseconds.  "late" is how much later than meant launches arrived
(95th percentile), and "cpu" what part of a processor this program took: where
either is large, it measures itself.
"""
import json
import random
import sys
import threading
import time

import psycopg2
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

QUERIES = (6, 18)
LEAD_S = 4


def percentile(values, fraction):
    return sorted(values)[min(int(len(values) * fraction), len(values) - 1)]


def offered(rate, seconds, seed):
    """What arrives: when, and of how many queries.  One launch more is one more,
    and all others stay as they were."""
    n, (least, most) = round(rate * seconds), QUERIES
    times, places = random.Random(seed), random.Random(seed + 0.5)
    order = sorted(range(n), key=lambda _: places.random())
    arrivals = sorted(times.random() * seconds for _ in range(n))
    return [(at, least + i % (most - least + 1)) for at, i in zip(arrivals, order)]


class WebApp:
    def __init__(self, dsn, pool):
        self.pool = pool
        self.engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn),
                                    pool_size=pool, max_overflow=0, pool_timeout=60)

    def launch(self, queries):
        with Session(self.engine) as session:
            for i in range(queries):
                session.execute(text("SELECT :i"), {"i": i})
            session.commit()

    def side_by_side(self, jobs):
        """Run them, each in a thread; a job is when to start, and what."""
        failed = []

        def run(job):
            try:
                job()
            except Exception as error:
                failed.append(error)

        threads = []
        for at, job in jobs:
            time.sleep(max(at - time.monotonic(), 0))
            threads.append(threading.Thread(target=run, args=(job,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def warm(self, launches):
        held, ready = [], threading.Barrier(self.pool)

        def work():
            # whoever has a connection waits until all have
            with self.engine.connect():
                ready.wait(60)
            for i in range(launches):
                began = time.monotonic()
                # lengths evenly over their range
                self.launch(QUERIES[0] + i * (QUERIES[1] - QUERIES[0]) // max(launches - 1, 1))
                held.append(time.monotonic() - began)

        self.side_by_side([(0, work)] * self.pool)
        return {"held_ms": 1000 * sum(held) / len(held)}

    def load(self, rate, seconds, seed):
        arrivals = offered(rate, seconds + LEAD_S, seed)
        took, late = [], []

        def arrive(at, queries):
            began = time.monotonic()
            late.append(began - at)
            self.launch(queries)
            if at >= start + LEAD_S:
                took.append(time.monotonic() - began)

        start = time.monotonic() + 0.1
        cpu = time.process_time()
        self.side_by_side([(start + at, lambda at=start + at, queries=queries: arrive(at, queries))
                           for at, queries in arrivals])
        ended = time.monotonic()
        return {"launches": len(took), "p50_ms": 1000 * percentile(took, 0.5), "p95_ms": 1000 * percentile(took, 0.95),
                "late_ms": 1000 * percentile(late, 0.95), "cpu": (time.process_time() - cpu) / (ended - start)}


def main(dsn, pool):
    app = WebApp(dsn, int(pool))
    for line in sys.stdin:
        command, *numbers = line.split()
        print(json.dumps(getattr(app, command)(*map(float if command == "load" else int, numbers))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
