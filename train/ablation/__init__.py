"""The ablation: arms that differ in one switch, trained from one start with the same prompts and seeds, and compared.

study → trials choose each arm's rates → runs → results → report
"""
