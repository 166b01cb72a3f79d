"""Policy networks: one folder per architecture, and the only place that names one."""
