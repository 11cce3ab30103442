"""Renders the chart with Helm's own engine. Reads `{chart, lint, jobs: [{name, namespace, values}]}`, writes
`{lint, jobs: [{template: text} | {error: text}]}`.
"""

import json
import sys

from helm_python.chart import Chart, lint
from helm_python.errors import HelmError


def render(chart, job):
    try:
        chart.validate_schema(job["values"])
        files = chart.render(job["values"], name=job["name"], namespace=job["namespace"])
    except HelmError as error:
        return {"error": str(error)}
    # Without the chart's own name in front.
    return {path.split("/", 1)[1]: text for path, text in files.items()}


work = json.load(sys.stdin)
with Chart.load(work["chart"]) as chart:
    jobs = [render(chart, job) for job in work["jobs"]]
json.dump({"lint": lint(work["chart"]), "jobs": jobs}, sys.stdout)
