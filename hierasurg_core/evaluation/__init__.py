"""Evaluation: how near generated operations come to real ones, by numbers another lab can trust.

`moments`, `frechet` and `kernel` compare two sets of features, and `intervals` says how sure a number is;
`pairs` compares pictures and looks at motion; `agreement` compares maps and boxes; `protocol` holds what a
number depends on. All of it works on numpy arrays in float64 and is exact: no network, no video file and no
torch. Nothing is imported here, so that a user of one part does not load the others.
"""
