"""The phantom: a synthetic laparoscopic cholecystectomy with exact panoptic maps.

It owns the drawn anatomy (`anatomy`), the instruments (`instruments`), their motion by verb and target
(`motion`), the composition of frames and maps (`draw`), whole operations on disk (`operation`, ``python -m
hierasurg_core.phantom``) and the recipe that trains the bundled mini models (`recipe`). Nothing measured on
it says anything about real surgery: every number from it is called mini.
"""
