"""Searches of hyper-parameters: what is proposed, what is stored, what they tell."""
