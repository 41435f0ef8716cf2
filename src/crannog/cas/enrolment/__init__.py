"""Enrolment of LASes by Kubernetes service account tokens (docs/formats/enrolment.md)."""
