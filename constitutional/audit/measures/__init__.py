"""The audit of judgments: what each principle, judge and version is worth, with n and interval of every number.

Ledgers of millions are read into columns (numpy), never into a million records.
"""
