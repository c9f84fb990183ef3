/* A libcuda.so.1 whose device is the processor: what gpu_ask.c calls, for trying that program where there is no GPU.
 * FAKE_CUDA=refuse has cuInit fail, wrong has the kernel and copies lie, empty has no device. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;

static int is(const char *mood) {
    const char *said = getenv("FAKE_CUDA");
    return said && !strcmp(said, mood);
}

int cuInit(unsigned flags) { return is("refuse") ? 100 : flags != 0; }
int cuDeviceGetCount(int *count) { return *count = is("empty") ? 0 : 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = 7, ordinal != 0 || is("empty") ? 101 : 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    return *context = "context", flags != 0 || device != 7 ? 1 : 0;
}
int cuCtxSynchronize(void) { return 0; }
int cuMemAlloc_v2(Address *at, size_t bytes) { return *at = (Address)malloc(bytes), *at ? 0 : 2; }
int cuMemFree_v2(Address at) { return free((void *)at), 0; }
int cuMemAllocHost_v2(void **at, size_t bytes) { return *at = malloc(bytes), *at ? 0 : 2; }
int cuMemFreeHost(void *at) { return free(at), 0; }
int cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) { return memcpy((void *)to, from, bytes), 0; }
int cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    memcpy(to, (void *)from, bytes);
    if (is("wrong")) ((char *)to)[bytes - 1] ^= 1;
    return 0;
}
int cuModuleLoadData(void **module, const void *image) {
    return *module = "module", strncmp(image, ".version ", 9) || !strstr(image, ".visible .entry add(") ? 218 : 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    return *function = "add", strcmp(module, "module") || strcmp(name, "add") ? 500 : 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    if (strcmp(function, "add") || gy * gz * by * bz != 1 || shared || stream || extra) return 1;
    const float *a = (float *)*(Address *)arguments[0], *b = (float *)*(Address *)arguments[1];
    float *c = (float *)*(Address *)arguments[2];
    unsigned n = *(unsigned *)arguments[3];
    for (unsigned i = 0; i < gx * bx && i < n; i++) c[i] = a[i] + b[i];
    return 0;
}
