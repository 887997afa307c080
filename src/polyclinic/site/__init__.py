"""The hospital's side across a network: joining a hub, studies to decide on, and their answers."""
