"""hpcdl on a GPU. Without one, everything here is skipped, with the reason; HPCDL_REQUIRE=gpu makes that a failure."""
