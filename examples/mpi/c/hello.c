/* Says which rank of how many this is, and which library it runs on. Ranks that are alone though there should be more
 * of them show as "rank 0 of 1". */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int rank, size, sum, length;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, ",\n")] = 0;
    printf("rank %d of %d, sum of ranks %d, %s\n", rank, size, sum, library);
    MPI_Finalize();
    return 0;
}
