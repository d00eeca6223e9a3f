"""Storms of SIGKILL, as long as you like, and the ledger of those that were run: python -m tests.soak"""
