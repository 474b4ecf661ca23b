"""Rewards: functions of judged rollouts. A new one is one function with its decorator."""
