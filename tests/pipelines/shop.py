"""A small hand-made workspace without a model."""

from datetime import UTC, datetime

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)
N = 600
TOML = """
[workspace]
name = "shop"
[limits]
capacity = {email = 200, sms = 60}
budget = 80.0
max_contacts = 10
[policy]
temperature = 0.3
floor = 0.2
[reward]
window_days = 7
[experiment]
experiment_id = "policy"
control = "holdout"
arms = [
    {name = "holdout", share = 0.1, policy = "none"},
    {name = "random", share = 0.3, policy = "random"},
    {name = "response", share = 0.1, policy = "response_greedy"},
    {name = "policy", share = 0.5, policy = "champion"},
]
"""
ACTIONS = "action_id,issue,group,name,margin,lever\nsale,s,s,Sale,20,1\nclub,s,s,Club,50,1\n"
TREATMENTS = """treatment_id,action_id,channel,cost,cooldown_days
sale_mail,sale,email,0.1,0
sale_sms,sale,sms,0.5,0
club_mail,club,email,0.1,0
"""
