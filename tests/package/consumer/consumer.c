/* usage: consumer_c MODEL: the first output for inputs of 0.5 */
#include <libemulator.h>

#include <stdio.h>

int main(int argc, char **argv)
{
    char message[500];
    emu_model *model;
    if (argc != 2 || emu_abi_version() != EMU_ABI_VERSION ||
        emu_load(argv[1], &model, message, sizeof message) != EMU_OK) {
        fprintf(stderr, "%s\n", argc == 2 ? message : "usage: consumer_c MODEL");
        return 1;
    }
    double x[100], y[100];
    for (int i = 0; i < 100; i++)
        x[i] = 0.5;
    if (emu_infer_f64(model, 1, x, 1, 1, y, 1, 1, NULL, 0) != EMU_OK)
        return 1;
    printf("%.17g\n", y[0]);
    emu_free(model);
    return 0;
}
