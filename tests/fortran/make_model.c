/* usage: make_model PATH: the model of the Fortran tests, 5 inputs, 3 outputs, with names, ranges and check samples */
#include "onnx_writer.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    static const int widths[] = {5, 18, 7, 3};
    net n = random_net(12, 3, widths, "Relu", "Sigmoid", 1);
    n.names = 1;
    n.num_checks = 4;
    bytes model = write_model(&n);
    FILE *file = argc == 2 ? fopen(argv[1], "wb") : NULL;
    const int good = file != NULL && fwrite(model.data, 1, model.size, file) == model.size && fclose(file) == 0;
    free(model.data);
    free_net(&n);
    return !good;
}
