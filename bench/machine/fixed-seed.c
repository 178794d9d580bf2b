/*
 * Preloaded into Bochs, which seeds the numbers behind RDRAND and RDSEED with the time of day:
 * without this, a guest that uses them (Linux, for KASLR among others) takes another path in
 * every run. With it the C library's default seed stays. Changes nothing else.
 */
void srand(unsigned int seed);

void srand(unsigned int seed) { (void)seed; }
