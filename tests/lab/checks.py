"""What a test that holds many things against the truth has found wrong."""

SHOWN = 20
problems = []


def require(condition, problem):
    if not condition:
        problems.append(problem)


def finish():
    """Say what was wrong; the exit status."""
    for problem in problems[:SHOWN]:
        print("NOT OK: " + problem)
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    return 1 if problems else 0
