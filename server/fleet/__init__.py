"""The operator's side: registry, certificates, enrolment, broker, roll-outs, and their commands."""
