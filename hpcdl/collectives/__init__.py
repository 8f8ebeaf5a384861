"""Who sends what: schedules as data, one executor, one progress loop, and the collectives made of them."""
