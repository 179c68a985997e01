/* A stand-in for libnvidia-ml.so.1. Its state is the text file named by FAKE_NVML_STATE, read again at each call:
 *   init CODE | count N | missing-power | delay MILLISECONDS
 *   card INDEX UUID NAME USED_MIB TOTAL_MIB LOAD TEMPERATURE POWER_MW PID PID_MIB lost|ok
 * Handles are (void *)(index + 1). Return codes are NVML's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char uuid[80], name[64], state[8]; long used, total, load, temp, power, pid, pid_mib; int there; } card_t;
typedef struct { int init, count; card_t card[16]; } state_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory2_t;
typedef struct { unsigned int gpu, memory; } load_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;

static state_t look(void) {
    state_t s; char line[512];
    memset(&s, 0, sizeof s);
    FILE *f = fopen(getenv("FAKE_NVML_STATE"), "r");
    if (!f) { s.init = 9; return s; }
    while (fgets(line, sizeof line, f)) {
        int i, ms; card_t c;
        memset(&c, 0, sizeof c);
        if (sscanf(line, "init %d", &i) == 1) s.init = i;
        if (sscanf(line, "count %d", &i) == 1) s.count = i;
        if (sscanf(line, "delay %d", &ms) == 1) usleep(1000 * ms);
        if (sscanf(line, "card %d %79s %63s %ld %ld %ld %ld %ld %ld %ld %7s", &i, c.uuid, c.name, &c.used, &c.total, &c.load,
                   &c.temp, &c.power, &c.pid, &c.pid_mib, c.state) == 11 && i < 16) { c.there = 1; s.card[i] = c; }
    }
    fclose(f);
    return s;
}
static int get(void *handle, card_t *card) {
    state_t s = look(); long i = (long)handle - 1;
    if (s.init) return s.init;
    if (i < 0 || i >= s.count || !s.card[i].there) return 2;
    *card = s.card[i];
    return strcmp(card->state, "lost") ? 0 : 15;
}
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return look().init; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : code == 9 ? "Driver Not Loaded" : "error"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { state_t s = look(); *n = s.count; return s.init; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **handle) { card_t c; *handle = (void *)(long)(i + 1); return get(*handle, &c); }
#ifndef BARE /* with it: a driver that counts its cards and tells nothing of them */
int nvmlDeviceGetUUID(void *h, char *text, unsigned int n) { card_t c; int rc = get(h, &c); if (!rc) snprintf(text, n, "%s", c.uuid); return rc; }
int nvmlDeviceGetName(void *h, char *text, unsigned int n) { card_t c; int rc = get(h, &c); if (!rc) snprintf(text, n, "%s", c.name); return rc; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) {
    card_t c; int rc = get(h, &c);
    if (!rc) { m->total = c.total << 20; m->used = c.used << 20; m->free = m->total - m->used; }
    return rc;
}
int nvmlDeviceGetUtilizationRates(void *h, load_t *l) { card_t c; int rc = get(h, &c); l->gpu = c.load; l->memory = 0; return rc ? rc : c.load < 0 ? 3 : 0; }
int nvmlDeviceGetTemperature(void *h, int kind, unsigned int *t) { card_t c; (void)kind; int rc = get(h, &c); *t = c.temp; return rc; }
#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void *h, unsigned int *mw) { card_t c; int rc = get(h, &c); *mw = c.power; return rc; }
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned int *n, process_t *p) {
    card_t c; int rc = get(h, &c);
    if (rc) return rc;
    unsigned int room = *n; *n = c.pid ? 1 : 0;
    if (room < *n) return 7;
    if (*n) { p->pid = c.pid; p->used = (unsigned long long)c.pid_mib << 20; p->gi = p->ci = 0xFFFFFFFF; }
    return 0;
}
#endif
