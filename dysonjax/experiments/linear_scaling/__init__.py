"""The linear scaling rule: arXiv:2407.16427 and 2412.20496."""
