/* Asks CUDA's driver interface, opened by name, for what a working GPU can do:
 *   gpu-ask add        adds two vectors with a kernel that the driver compiles from PTX
 *   gpu-ask bandwidth  copies from the host's memory to the device's; prints MB/s, the best of several copies
 *   gpu-ask count      how many GPUs there are
 * One program for the host and for containers, which needs no CUDA toolkit. Exit status 1: the answer is wrong or the driver says no.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int Result; /* CUresult; 0 is success */
typedef unsigned long long Address; /* CUdeviceptr */

enum { ELEMENTS = 1 << 20, THREADS = 256, COPY = 256 << 20, COPIES = 10 };

/* c[i] = a[i] + b[i]; for any GPU since Maxwell. */
static const char PTX[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry add(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %d<8>;\n"
    "  ld.param.u64 %d1, [pa]; ld.param.u64 %d2, [pb]; ld.param.u64 %d3, [pc]; ld.param.u32 %r1, [pn];\n"
    "  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;\n"
    "  mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "  setp.ge.u32 %p1, %r5, %r1;\n"
    "  @%p1 bra done;\n"
    "  cvta.to.global.u64 %d1, %d1; cvta.to.global.u64 %d2, %d2; cvta.to.global.u64 %d3, %d3;\n"
    "  mul.wide.u32 %d4, %r5, 4;\n"
    "  add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;\n"
    "  ld.global.f32 %f1, [%d5]; ld.global.f32 %f2, [%d6];\n"
    "  add.f32 %f3, %f1, %f2;\n"
    "  st.global.f32 [%d7], %f3;\n"
    "done:\n"
    "  ret;\n"
    "}\n";

static void *cuda;

static void *function(const char *name) {
    void *address = dlsym(cuda, name);
    if (!address) {
        printf("the driver has no %s\n", name);
        exit(1);
    }
    return address;
}

static void must(const char *what, Result result) {
    if (result) {
        printf("%s: error %d\n", what, result);
        exit(1);
    }
}

#define CALL(type, name, ...) must(name, ((Result(*) type)function(name))(__VA_ARGS__))

static Address allocate(size_t bytes) {
    Address address = 0;
    CALL((Address *, size_t), "cuMemAlloc_v2", &address, bytes);
    return address;
}

static void release(Address address) { CALL((Address), "cuMemFree_v2", address); }

static void to_device(Address to, const void *from, size_t bytes) {
    CALL((Address, const void *, size_t), "cuMemcpyHtoD_v2", to, from, bytes);
}

static void to_host(void *to, Address from, size_t bytes) {
    CALL((void *, Address, size_t), "cuMemcpyDtoH_v2", to, from, bytes);
}

static int add(void) {
    size_t bytes = ELEMENTS * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes), *c = calloc(ELEMENTS, sizeof(float));
    void *module, *kernel;
    if (!a || !b || !c) return puts("no memory"), 1;
    for (int i = 0; i < ELEMENTS; i++) a[i] = (float)i, b[i] = 2.0f * (float)i;
    CALL((void **, const void *), "cuModuleLoadData", &module, PTX);
    CALL((void **, void *, const char *), "cuModuleGetFunction", &kernel, module, "add");
    Address pa = allocate(bytes), pb = allocate(bytes), pc = allocate(bytes);
    to_device(pa, a, bytes);
    to_device(pb, b, bytes);
    unsigned n = ELEMENTS, blocks = (ELEMENTS + THREADS - 1) / THREADS;
    void *arguments[] = {&pa, &pb, &pc, &n};
    CALL((void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **),
         "cuLaunchKernel", kernel, blocks, 1, 1, THREADS, 1, 1, 0, NULL, arguments, NULL);
    CALL((void), "cuCtxSynchronize");
    to_host(c, pc, bytes);
    for (int i = 0; i < ELEMENTS; i++)
        if (c[i] != a[i] + b[i]) return printf("element %d is %g, not %g\n", i, c[i], a[i] + b[i]), 1;
    release(pa), release(pb), release(pc);
    printf("added %d\n", ELEMENTS);
    return 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int bandwidth(void) {
    void *from = NULL;
    unsigned char last = 0;
    /* Memory that is not moved nor swapped: a copy from other memory measures the processor. */
    CALL((void **, size_t), "cuMemAllocHost_v2", &from, (size_t)COPY);
    memset(from, 0x5a, COPY);
    Address to = allocate(COPY);
    double best = 0;
    for (int i = 0; i <= COPIES; i++) {
        double start = now();
        to_device(to, from, COPY);
        CALL((void), "cuCtxSynchronize");
        double rate = COPY / (now() - start) / 1e6;
        /* The first is for warming up. */
        if (i > 0 && rate > best) best = rate;
    }
    to_host(&last, to + COPY - 1, 1);
    if (last != 0x5a) return puts("what arrived is not what was sent"), 1;
    release(to);
    CALL((void *), "cuMemFreeHost", from);
    printf("%.0f MB/s\n", best);
    return 0;
}

int main(int argc, char **argv) {
    int device, gpus;
    void *context;
    const char *what = argc == 2 ? argv[1] : "";
    cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda) return puts(dlerror()), 1;
    CALL((unsigned), "cuInit", 0);
    CALL((int *), "cuDeviceGetCount", &gpus);
    if (!strcmp(what, "count")) return printf("GPUs %d\n", gpus), 0;
    CALL((int *, int), "cuDeviceGet", &device, 0);
    CALL((void **, unsigned, int), "cuCtxCreate_v2", &context, 0, device);
    if (!strcmp(what, "add")) return add();
    if (!strcmp(what, "bandwidth")) return bandwidth();
    printf("usage: %s add|bandwidth|count\n", argv[0]);
    return 2;
}
