"""Dashboards and alerts as code: tools/dashboards.py writes deploy/observability from it."""
