"""sin, cos, tan, atan and atan2.

Arguments are reduced modulo pi/2 exactly, by integer arithmetic (Payne and Hanek, "Radian reduction
for trigonometric functions", 1983): the same few instructions for every size. Polynomials are our own
minimax fits (Remez exchange at 60 digits); the error given with each is relative to the result.
"""
