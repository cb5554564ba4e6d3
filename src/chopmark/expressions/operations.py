"""The operations of the machine: what the first number of an instruction says."""

# One row per instruction: operation, target register, two operands.
(
    CONST, COPY, NEG, NOT, ADD, SUB, MUL, DIV, MOD, EQ, NE, LT, LE, AND, OR,
    MISSING, COALESCE, SELECT, IN, ABS, LOG, LOG1P, EXP, SQRT, FLOOR, MIN, MAX,
    HOUR, WEEKDAY, SECONDS,
) = range(30)  # fmt: skip
