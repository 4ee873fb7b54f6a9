"""Dashboards and alerts as code: tools/dashboards.py writes them into the Helm chart."""
