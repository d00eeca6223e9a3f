"""Benchmarks of interlock against bare system calls and its peers; see README.md here."""
